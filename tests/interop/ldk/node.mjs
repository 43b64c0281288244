// One LDK node, put together from LDK's parts. It knows no chain of its own: blocks come in by `connectBlock`,
// transactions go out through `say`. It keeps nothing on disk: `save` gives its state away, `start` takes it back.

import * as ldk from "lightningdevkit";
import { NodeLDKNet } from "lightningdevkit-node-net";
import { Coins, SCRIPT } from "./coins.mjs";
import { bytes, hex, nameOf, plain, unwrap } from "./plain.mjs";

const PUMP_MILLISECONDS = 10;
const LEVELS = ["gossip", "trace", "debug", "info", "warn", "error"];
const NO_U32 = () => ldk.Option_u32Z.constructor_none();

export class LdkNode {
  /** `say(object)` reports; `options`: seed (hex), saved, feerate (sat/kw), and the switches of `config` below. */
  constructor(options, say) {
    this.say = say;
    this.options = options;
    this.feerate = options.feerate ?? 253;
    this.minFeerate = options.min_feerate ?? 253;
    this.held = new Map((options.saved?.held ?? []).map(([hash, preimage]) => [hash, bytes(preimage)]));
    this.accept = "yes";
    this.holdPayments = false;
    this.userChannelIds = 0n;
    this.coins = new Coins();
    this.saved = new Map();
    this.build();
  }

  build() {
    const { say, options } = this;
    const now = Math.floor(Date.now() / 1000);
    this.logger = ldk.Logger.new_impl({
      log: (record) => {
        if (record.get_level() === ldk.Level.LDKLevel_Gossip) return;
        const level = LEVELS[record.get_level()];
        process.stderr.write(`${new Date().toISOString()} ${level} ${record.get_module_path()}: ${record.get_args()}\n`);
        // What LDK has against its peer is said aloud: it is what the tests want to know.
        if (level === "error" || level === "warn") say({ event: "Log", level, text: record.get_args() });
      },
    });
    const fees = ldk.FeeEstimator.new_impl({
      get_est_sat_per_1000_weight: (target) => this.feerateFor(target),
    });
    const broadcaster = ldk.BroadcasterInterface.new_impl({
      broadcast_transactions: (txs) => say({ event: "Broadcast", txs: txs.map(hex) }),
    });
    const done = ldk.ChannelMonitorUpdateStatus.LDKChannelMonitorUpdateStatus_Completed;
    const save = (outpoint, monitor) => {
      this.saved.set(plain(outpoint), hex(monitor.write()));
      return done;
    };
    const persister = ldk.Persist.new_impl({
      persist_new_channel: save,
      update_persisted_channel: (outpoint, _update, monitor) => save(outpoint, monitor),
      archive_persisted_channel: () => {},
    });
    this.keys = ldk.KeysManager.constructor_new(bytes(options.seed), BigInt(now), 0);
    const entropy = this.keys.as_EntropySource();
    const signer = this.keys.as_NodeSigner();
    this.monitors = ldk.ChainMonitor.constructor_new(
      ldk.Option_FilterZ.constructor_none(), broadcaster, this.logger, fees, persister,
    );
    const network = ldk.Network.LDKNetwork_Regtest;
    this.graph = ldk.NetworkGraph.constructor_new(network, this.logger);
    const scorer = ldk.ProbabilisticScorer.constructor_new(
      ldk.ProbabilisticScoringDecayParameters.constructor_default(), this.graph, this.logger,
    );
    const router = ldk.DefaultRouter.constructor_new(
      this.graph, this.logger, entropy,
      ldk.MultiThreadedLockableScore.constructor_new(scorer.as_Score()).as_LockableScore(),
      ldk.ProbabilisticScoringFeeParameters.constructor_default(),
    );
    const messageRouter = ldk.DefaultMessageRouter.constructor_new(this.graph, entropy).as_MessageRouter();
    const providers = [entropy, signer, this.keys.as_SignerProvider()];
    if (options.saved === undefined) {
      this.channels = ldk.ChannelManager.constructor_new(
        fees, this.monitors.as_Watch(), broadcaster, router.as_Router(), messageRouter,
        this.logger, ...providers, this.config(),
        ldk.ChainParameters.constructor_new(network, ldk.BestBlock.constructor_from_network(network)), now,
      );
    } else {
      const monitors = options.saved.monitors.map((monitor) =>
        unwrap(
          ldk.UtilMethods.constructor_C2Tuple_ThirtyTwoBytesChannelMonitorZ_read(
            bytes(monitor), entropy, this.keys.as_SignerProvider(),
          ),
          "monitor",
        ).get_b(),
      );
      const read = ldk.UtilMethods.constructor_C2Tuple_ThirtyTwoBytesChannelManagerZ_read(
        bytes(options.saved.manager), ...providers, fees, this.monitors.as_Watch(), broadcaster, router.as_Router(),
        messageRouter, this.logger, this.config(), monitors,
      );
      this.channels = unwrap(read, "manager").get_b();
      for (const monitor of monitors) {
        unwrap(this.monitors.as_Watch().watch_channel(monitor.get_funding_txo().get_a(), monitor), "watch");
      }
    }
    this.gossip = ldk.P2PGossipSync.constructor_new(
      this.graph, ldk.Option_UtxoLookupZ.constructor_none(), this.logger,
    );
    const ignorer = ldk.IgnoringMessageHandler.constructor_new();
    this.peers = ldk.PeerManager.constructor_new(
      this.channels.as_ChannelMessageHandler(), this.gossip.as_RoutingMessageHandler(),
      ignorer.as_OnionMessageHandler(), ignorer.as_CustomMessageHandler(),
      now, entropy.get_secure_random_bytes(), this.logger, signer,
    );
    this.bumper = ldk.BumpTransactionEventHandler.constructor_new(
      broadcaster, ldk.Wallet.constructor_new(this.coins.source, this.logger).as_CoinSelectionSource(),
      this.keys.as_SignerProvider(), this.logger,
    );
    this.net = new NodeLDKNet(this.peers);
    this.nodeId = hex(this.channels.get_our_node_id());
    this.pumping = setInterval(() => this.pump(), PUMP_MILLISECONDS);
  }

  /** A feerate that the test sets, and floors that let any honest peer in. */
  feerateFor(target) {
    const kind = ldk.ConfirmationTarget;
    switch (target) {
      case kind.LDKConfirmationTarget_MaximumFeeEstimate:
        return Math.max(this.feerate * 10, 25_000);
      case kind.LDKConfirmationTarget_MinAllowedAnchorChannelRemoteFee:
      case kind.LDKConfirmationTarget_MinAllowedNonAnchorChannelRemoteFee:
        return this.minFeerate;
      case kind.LDKConfirmationTarget_ChannelCloseMinimum:
        return 253;
      default:
        return this.feerate;
    }
  }

  /** Its defaults, but: anchors, every honest channel, and acceptance by hand, which anchors need. */
  config({ announce = this.options.announce ?? false, privacy = false } = {}) {
    const config = ldk.UserConfig.constructor_default();
    const ours = ldk.ChannelHandshakeConfig.constructor_default();
    ours.set_negotiate_anchors_zero_fee_htlc_tx(true);
    ours.set_minimum_depth(this.options.minimum_depth ?? 1);
    ours.set_announce_for_forwarding(announce);
    ours.set_negotiate_scid_privacy(privacy);
    ours.set_max_inbound_htlc_value_in_flight_percent_of_channel(100);
    config.set_channel_handshake_config(ours);
    const limits = ldk.ChannelHandshakeLimits.constructor_default();
    limits.set_force_announced_channel_preference(false);
    limits.set_min_funding_satoshis(0n);
    limits.set_max_funding_satoshis(BigInt(this.options.max_funding ?? 10_000_000_000));
    config.set_channel_handshake_limits(limits);
    if (this.options.max_dust_msat !== undefined) {
      const channel = ldk.ChannelConfig.constructor_default();
      const limit = ldk.MaxDustHTLCExposure.constructor_fixed_limit_msat(BigInt(this.options.max_dust_msat));
      channel.set_max_dust_htlc_exposure(limit);
      config.set_channel_config(channel);
    }
    config.set_manually_accept_inbound_channels(true);
    config.set_accept_forwards_to_priv_channels(true);
    return config;
  }

  // --- what happens by itself -----------------------------------------------------------------------------------------

  /** Takes LDK's events, answers the routine ones, tells of all, and lets messages out. */
  pump() {
    const events = [];
    const collect = ldk.EventHandler.new_impl({
      handle_event: (event) => {
        events.push(event.clone());
        return ldk.Result_NoneReplayEventZ.constructor_ok();
      },
    });
    this.channels.as_EventsProvider().process_pending_events(collect);
    this.monitors.as_EventsProvider().process_pending_events(collect);
    for (const event of events) {
      const told = { event: nameOf(event), ...plain(event) };
      delete told.kind;
      if (event instanceof ldk.Event_PaymentFailed && told.reason !== null) {
        told.reason = ldk.PaymentFailureReason[told.reason].replace(/^.*_/, "");
      }
      this.say(told);
      this.react(event);
    }
    this.peers.process_events();
  }

  react(event) {
    if (event instanceof ldk.Event_OpenChannelRequest) {
      const id = this.nextUserChannelId();
      const [temporary, peer] = [event.temporary_channel_id, event.counterparty_node_id];
      let result;
      if (this.accept === "zeroconf") {
        result = this.channels.accept_inbound_channel_from_trusted_peer_0conf(temporary, peer, id);
      } else if (this.accept === "yes") {
        result = this.channels.accept_inbound_channel(temporary, peer, id);
      } else {
        result = this.channels.force_close_without_broadcasting_txn(temporary, peer, "this peer takes no channels now");
      }
      if (!result.is_ok()) this.say({ event: "Refused", what: "accept", why: plain(result.err) });
    } else if (event instanceof ldk.Event_PaymentClaimable) {
      const preimage = event.purpose.preimage();
      if (!(preimage instanceof ldk.Option_ThirtyTwoBytesZ_Some)) return;
      this.held.set(hex(event.payment_hash), preimage.some);
      if (!this.holdPayments) this.claim(hex(event.payment_hash));
    } else if (event instanceof ldk.Event_PendingHTLCsForwardable) {
      this.channels.process_pending_htlc_forwards();
    } else if (event instanceof ldk.Event_BumpTransaction) {
      const bump = event.bump_transaction;
      if (bump instanceof ldk.BumpTransactionEvent_ChannelClose && this.coins.byOutpoint.size === 0) {
        // Without coins for a child the commitment goes alone: its own feerate suffices on an empty chain.
        this.say({ event: "Broadcast", txs: [hex(bump.commitment_tx)] });
      } else {
        this.bumper.handle_event(bump);
      }
    } else if (event instanceof ldk.Event_SpendableOutputs) {
      const tx = this.keys.as_OutputSpender().spend_spendable_outputs(event.outputs, [], SCRIPT, this.feerate, NO_U32());
      if (tx.is_ok()) this.say({ event: "Broadcast", txs: [hex(tx.res)] });
    }
  }

  nextUserChannelId() {
    this.userChannelIds += 1n;
    return this.userChannelIds;
  }

  // --- what is asked of it ------------------------------------------------------------------------------------------------

  async listen(port) {
    await this.net.bind_listener("127.0.0.1", port);
    return this.net.servers[0].address().port;
  }

  async connect(nodeId, host, port) {
    await this.net.connect_peer(host, port, bytes(nodeId));
  }

  connected() {
    return this.peers.list_peers().map((peer) => hex(peer.get_counterparty_node_id()));
  }

  disconnect(nodeId) {
    this.peers.disconnect_by_node_id(bytes(nodeId));
  }

  open(nodeId, amount, push, announce, privacy) {
    const id = this.channels.create_channel(
      bytes(nodeId), BigInt(amount), BigInt(push), this.nextUserChannelId(), null, this.config({ announce, privacy }),
    );
    return plain(unwrap(id, "open"));
  }

  fund(temporaryId, nodeId, tx) {
    const id = ldk.ChannelId.constructor_new(bytes(temporaryId));
    unwrap(this.channels.funding_transaction_generated(id, bytes(nodeId), bytes(tx)), "fund");
  }

  find(channelId) {
    const found = this.channels.list_channels().find((c) => hex(c.get_channel_id().get_a()) === channelId);
    if (found === undefined) throw new Error(`no channel ${channelId}`);
    return found;
  }

  close(channelId) {
    const channel = this.find(channelId);
    const peer = channel.get_counterparty().get_node_id();
    unwrap(this.channels.close_channel(channel.get_channel_id(), peer), "close");
  }

  forceClose(channelId) {
    const channel = this.find(channelId);
    const peer = channel.get_counterparty().get_node_id();
    const reason = "the test wants it";
    unwrap(
      this.channels.force_close_broadcasting_latest_txn(channel.get_channel_id(), peer, reason), "force close",
    );
  }

  list() {
    return this.channels.list_channels().map((c) => ({
      channel_id: hex(c.get_channel_id().get_a()),
      funding: plain(c.get_funding_txo()),
      peer: hex(c.get_counterparty().get_node_id()),
      short_channel_id: plain(c.get_short_channel_id()),
      outbound: Boolean(c.get_is_outbound()),
      announced: Boolean(c.get_is_announced()),
      ready: Boolean(c.get_is_channel_ready()),
      usable: Boolean(c.get_is_usable()),
      capacity: plain(c.get_channel_value_satoshis()),
      next_limit_msat: plain(c.get_next_outbound_htlc_limit_msat()),
      reserve: plain(c.get_unspendable_punishment_reserve()),
      outbound_msat: plain(c.get_outbound_capacity_msat()),
      inbound_msat: plain(c.get_inbound_capacity_msat()),
      feerate: plain(c.get_feerate_sat_per_1000_weight()),
      confirmations: plain(c.get_confirmations()),
      // Without this a test cannot tell an anchors channel from an old one.
      anchors: Boolean(c.get_channel_type()?.requires_anchors_zero_fee_htlc_tx()),
      inbound_htlcs: c.get_pending_inbound_htlcs().length,
      outbound_htlcs: c.get_pending_outbound_htlcs().length,
    }));
  }

  graphSize() {
    const view = this.graph.read_only();
    const known = Array.from(view.list_channels(), (scid) => view.channel(scid));
    // The bindings wrap an absent policy in an object that points nowhere.
    const policies = known.flatMap((c) => [c.get_one_to_two(), c.get_two_to_one()]).filter((p) => p?.ptr);
    const size = { nodes: view.list_nodes().length, channels: known.length, policies: policies.length };
    view.free();
    return size;
  }

  invoice(amount, description, expiry) {
    const text = ldk.Bolt11InvoiceDescription.constructor_direct(unwrap(ldk.Description.constructor_new(description), "text"));
    const amountOption =
      amount === null ? ldk.Option_u64Z.constructor_none() : ldk.Option_u64Z.constructor_some(BigInt(amount));
    const invoice = this.channels.create_bolt11_invoice(
      amountOption, text, ldk.Option_u32Z.constructor_some(expiry),
      ldk.Option_u16Z.constructor_none(), ldk.Option_ThirtyTwoBytesZ.constructor_none(),
    );
    return unwrap(invoice, "invoice").to_str();
  }

  pay(text, amount, paymentId) {
    const invoice = unwrap(ldk.Bolt11Invoice.constructor_from_str(text), "invoice");
    const terms =
      amount === null
        ? ldk.UtilMethods.constructor_payment_parameters_from_invoice(invoice)
        : ldk.UtilMethods.constructor_payment_parameters_from_variable_amount_invoice(invoice, BigInt(amount));
    const parts = unwrap(terms, "terms");
    const hash = parts.get_a();
    const retry = ldk.Retry.constructor_attempts(3);
    const id = paymentId === null ? hash : bytes(paymentId);
    unwrap(this.channels.send_payment(hash, parts.get_b(), id, parts.get_c(), retry), "pay");
    return hex(hash);
  }

  claim(paymentHash) {
    const preimage = this.held.get(paymentHash);
    if (preimage === undefined) throw new Error(`no payment ${paymentHash} is held`);
    this.held.delete(paymentHash);
    this.channels.claim_funds(preimage);
  }

  fail(paymentHash) {
    this.held.delete(paymentHash);
    this.channels.fail_htlc_backwards(bytes(paymentHash));
  }

  connectBlock(block, height) {
    for (const listener of [this.channels.as_Listen(), this.monitors.as_Listen()]) {
      listener.block_connected(bytes(block), height);
    }
  }

  disconnectBlock(header, height) {
    for (const listener of [this.channels.as_Listen(), this.monitors.as_Listen()]) {
      listener.block_disconnected(bytes(header), height);
    }
  }

  /** Announces this node under addresses of every kind. */
  announce(alias) {
    const name = new Uint8Array(32);
    name.set(Buffer.from(alias));
    const addresses = [
      "017f0000012607",
      "02" + "00".repeat(15) + "012608",
      "04" + "ab".repeat(32) + "123403" + "2609",
      "050b" + hex(Buffer.from("ldk.example")) + "260a",
    ].map((wire) => unwrap(ldk.SocketAddress.constructor_read(bytes(wire)), "address"));
    this.peers.broadcast_node_announcement(bytes("3399ff"), name, addresses);
  }

  /** All that a restart needs, as it is now. Given back to `start` later than that, it is a lie about the past. */
  save() {
    const held = [...this.held].map(([hash, preimage]) => [hash, hex(preimage)]);
    return { manager: hex(this.channels.write()), monitors: [...this.saved.values()], held };
  }

  /** What LDK does once a minute: among others, a new feerate is offered to peers. */
  tick() {
    this.channels.timer_tick_occurred();
    this.peers.timer_tick_occurred();
  }

  stop() {
    clearInterval(this.pumping);
    this.net.stop();
  }
}
