// LDK as a peer that a test drives: one JSON object a line on standard input and output, LDK's log on standard error.
//
//   > {"id": 1, "method": "start", "seed": "01…", "port": 0}     first; answers node_id and port
//   < {"id": 1, "result": {...}}   or   {"id": 1, "error": "…"}
//   < {"event": "ChannelReady", ...}                              what LDK reports, as it comes
//
// The events `Broadcast` (transactions that LDK would publish) and `FundingGenerationReady` ask the test to act.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import * as ldk from "lightningdevkit";
import { LdkNode } from "./node.mjs";

const say = (object) => process.stdout.write(`${JSON.stringify(object)}\n`);

let node;

const METHODS = {
  start: async (p) => {
    if (node !== undefined) throw new Error("started already");
    node = new LdkNode(p, say);
    return { node_id: node.nodeId, port: await node.listen(p.port ?? 0) };
  },
  connect: (p) => node.connect(p.node_id, p.host, p.port),
  connected: () => node.connected(),
  disconnect: (p) => node.disconnect(p.node_id),
  open: (p) => node.open(p.node_id, p.amount, p.push ?? 0, p.announce ?? false, p.privacy ?? false),
  fund: (p) => node.fund(p.temporary_channel_id, p.node_id, p.tx),
  close: (p) => node.close(p.channel_id),
  force_close: (p) => node.forceClose(p.channel_id),
  channels: () => node.list(),
  graph: () => node.graphSize(),
  invoice: (p) => node.invoice(p.amount_msat ?? null, p.description ?? "", p.expiry ?? 3600),
  pay: (p) => node.pay(p.invoice, p.amount_msat ?? null, p.payment_id ?? null),
  hold: (p) => void (node.holdPayments = p.on),
  claim: (p) => node.claim(p.payment_hash),
  fail: (p) => node.fail(p.payment_hash),
  accept: (p) => void (node.accept = p.how),
  feerate: (p) => void (node.feerate = p.sat_per_kw),
  coin: (p) => node.coins.add(p),
  block: (p) => node.connectBlock(p.block, p.height),
  blocks: (p) => p.blocks.forEach((block, i) => node.connectBlock(block, p.height + i)),
  disconnect_block: (p) => node.disconnectBlock(p.header, p.height),
  announce: (p) => node.announce(p.alias),
  save: () => node.save(),
  tick: () => node.tick(),
  stop: () => node.stop(),
};

const wasm = createRequire(import.meta.url).resolve("lightningdevkit/liblightningjs.wasm");
await ldk.initializeWasmFromBinary(readFileSync(wasm));
say({ ready: true });

for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, ...params } = JSON.parse(line);
  try {
    if (!(method in METHODS)) throw new Error(`there is no method ${method}`);
    if (method !== "start" && node === undefined) throw new Error("start first");
    const result = (await METHODS[method](params)) ?? null;
    node.pump();
    say({ id, result });
  } catch (error) {
    say({ id, error: error?.message ?? String(error) });
  }
  if (method === "stop") break;
}
process.exit(0);
