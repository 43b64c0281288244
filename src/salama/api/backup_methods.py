"""What the methods about backups and recovery do. No decisions are made here."""

from __future__ import annotations

from salama.api import backup_schema as schema
from salama.api.area import Area
from salama.api.method import Nothing
from salama.node.recover import progress, summary


class BackupMethods(Area):
    """What survives the loss of the disk."""

    async def backup(self, params: schema.BackupParams) -> schema.BackupState:
        backups = self.node.backups
        if params.write:
            await backups.renew(again=True)
        latest = backups.latest
        places = [(str(backups.path), "" if latest is not None else "not written yet")]
        places += [(str(path), backups.failed.get(path, "")) for path in backups.copies]
        if (copy := self.node.config.database_copy) is not None:
            places.append((f"{copy} (the database)", ""))
        boxes = self.node.boxes
        for node_id, generation in boxes.keepers():
            why = boxes.troubles.get(node_id) or ("" if generation == backups.generation else "has an older one")
            places.append((f"peer {node_id}", why))
        return schema.BackupState(
            generation=backups.generation,
            made_at=0 if latest is None else latest.made_at,
            channels=0 if latest is None else len(latest.channels),
            places=[schema.BackupPlace(place=p, is_current=not why, problem=why) for p, why in places],
            warnings=[*backups.warnings(), *boxes.warnings()],
        )

    async def recovery(self, _: Nothing) -> schema.RecoveryState:
        node = self.node
        lines = []
        for channel_id, actor in sorted(node.channels.by_id.items()):
            if actor.record is None or not actor.record.restored:
                continue
            onchain = node.onchain.by_id.get(channel_id)
            lines.append(
                progress(
                    actor.record,
                    None if onchain is None else onchain.state,
                    node.onchain.env(channel_id),
                    is_connected=actor.peer in node.peers.connected,
                    has_address=actor.peer in node.peers.addresses,
                )
            )
        is_waiting = node.is_recovering()
        return schema.RecoveryState(
            answer=summary(lines, is_waiting),
            is_recovering=is_waiting,
            capacity_msat=1000 * sum(int(line.capacity) for line in lines),
            ours_msat=1000 * sum(int(line.ours) for line in lines),
            onchain_msat=1000 * int(node.wallet.balance().total),
            channels=[
                schema.RecoveringChannel(
                    channel_id=str(line.channel_id),
                    peer=str(line.peer),
                    capacity_msat=1000 * int(line.capacity),
                    ours_msat=1000 * int(line.ours),
                    stage=line.stage,
                    missing=line.words,
                )
                for line in lines
            ],
        )
