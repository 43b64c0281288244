// LDK's values as plain JSON: bytes as hex, 64-bit numbers as numbers, options as value or null, objects by their fields.

import * as ldk from "lightningdevkit";

export const hex = (bytes) => Buffer.from(bytes).toString("hex");
export const bytes = (text) => new Uint8Array(Buffer.from(text, "hex"));
export const reversed = (value) => Uint8Array.from(value).reverse();

// Fields of the bindings themselves, on every object.
const BINDING = new Set(["ptr", "ptrs_to", "_dummy", "instance_idx", "bindings_instance"]);

/** The name of a class of LDK without the kind it belongs to: Event_PaymentSent is PaymentSent. */
export const nameOf = (value) => value.constructor.name.replace(/^[A-Za-z0-9]+_/, "");

export function plain(value, depth = 0) {
  if (value === null || value === undefined) return null;
  if (typeof value === "bigint") return value <= Number.MAX_SAFE_INTEGER ? Number(value) : value.toString();
  if (typeof value !== "object") return value;
  if (value instanceof Uint8Array) return hex(value);
  if (Array.isArray(value)) return value.map((item) => plain(item, depth + 1));
  if (value instanceof ldk.ChannelId) return hex(value.get_a());
  if (value instanceof ldk.OutPoint) return `${hex(reversed(value.get_txid()))}:${value.get_index()}`;
  if (value instanceof ldk.UntrustedString) return value.get_a();
  if (value.constructor.name.startsWith("Option_")) return plain("some" in value ? value.some : null, depth + 1);
  if (depth > 4) return nameOf(value);
  const fields = Object.keys(value).filter((key) => !BINDING.has(key));
  if (fields.length === 0) return nameOf(value);
  const out = { kind: nameOf(value) };
  for (const key of fields) out[key] = plain(value[key], depth + 1);
  return out;
}

/** What a Result holds; throws what it complains about. */
export function unwrap(result, what) {
  if (result.is_ok()) return result.res;
  throw new Error(`${what}: ${JSON.stringify(plain(result.err))}`);
}
