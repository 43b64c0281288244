// Coins that anyone may spend: P2WSH of the script OP_TRUE. They pay LDK's on-chain fees without a wallet or a key.

import * as ldk from "lightningdevkit";
import { bytes, hex, reversed } from "./plain.mjs";

export const SCRIPT = bytes("00204ae81572f06e1b88fd5ced7a1a000945432e83e1551e6f721ee9c00b8cc33260");
// An empty script (4 weight units) and a witness of one item that is the one-byte script.
const SATISFACTION_WEIGHT = 4n + 3n;

class Reader {
  constructor(data) {
    this.data = data;
    this.at = 0;
  }
  take(length) {
    if (this.at + length > this.data.length) throw new Error("PSBT ends early");
    this.at += length;
    return this.data.subarray(this.at - length, this.at);
  }
  size() {
    const first = this.take(1)[0];
    if (first < 0xfd) return first;
    return Number(Buffer.from(this.take(first === 0xfd ? 2 : 4)).readUIntLE(0, first === 0xfd ? 2 : 4));
  }
  /** One map of a PSBT: pairs of key and value up to the empty key. */
  map() {
    const pairs = new Map();
    for (let length = this.size(); length > 0; length = this.size()) {
      const key = hex(this.take(length));
      pairs.set(key, this.take(this.size()));
    }
    return pairs;
  }
}

function inputsOf(unsigned) {
  const reader = new Reader(unsigned);
  reader.take(4);
  const outpoints = [];
  for (let left = reader.size(); left > 0; left--) {
    const txid = hex(reversed(reader.take(32)));
    outpoints.push(`${txid}:${Buffer.from(reader.take(4)).readUInt32LE(0)}`);
    reader.take(reader.size());
    reader.take(4);
  }
  return outpoints;
}

/** Gives the coins in a PSBT their witness; other inputs keep the one they bring, or none. */
function finish(psbt, isOurs) {
  const reader = new Reader(psbt);
  reader.take(5);
  const unsigned = reader.map().get("00");
  const witnesses = inputsOf(unsigned).map((outpoint) => {
    const brought = reader.map().get("08");
    return isOurs(outpoint) ? bytes("010151") : (brought ?? bytes("00"));
  });
  return Buffer.concat([unsigned.subarray(0, 4), bytes("0001"), unsigned.subarray(4, -4), ...witnesses, unsigned.subarray(-4)]);
}

export class Coins {
  constructor() {
    this.byOutpoint = new Map();
    this.source = ldk.WalletSource.new_impl({
      list_confirmed_utxos: () =>
        ldk.Result_CVec_UtxoZNoneZ.constructor_ok(
          [...this.byOutpoint.values()].map(({ txid, vout, amount }) =>
            ldk.Utxo.constructor_new(
              ldk.OutPoint.constructor_new(reversed(bytes(txid)), vout),
              ldk.TxOut.constructor_new(BigInt(amount), SCRIPT),
              SATISFACTION_WEIGHT,
            ),
          ),
        ),
      get_change_script: () => ldk.Result_CVec_u8ZNoneZ.constructor_ok(SCRIPT),
      sign_psbt: (psbt) =>
        ldk.Result_TransactionNoneZ.constructor_ok(finish(psbt, (outpoint) => this.byOutpoint.has(outpoint))),
    });
  }

  add(coin) {
    this.byOutpoint.set(`${coin.txid}:${coin.vout}`, coin);
  }
}
