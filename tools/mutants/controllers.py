"""Bugs in the hand-over of shards and in the controllers."""

from __future__ import annotations

from tools.mutants.planting import Edit, Mutant

MUTANTS = (
    Mutant(
        "numbers-ignored",
        "lessons 47; scenarios 2.3, part C",
        "an old controller's freeze, install or delete is taken",
        (
            Edit(
                "shardkv.shards",
                "    return Relation.LOWER if num < stored else Relation.HIGHER",
                "    return Relation.HIGHER",
            ),
        ),
    ),
    Mutant(
        "installed-again",
        "scenarios 2.3, part B; oxia#1264",
        "a repeated install replaces a shard that has served puts since",
        (
            Edit(
                "shardkv.shards",
                "    (State.SERVING, Event.INSTALL): Action.AGAIN,",
                "    (State.SERVING, Event.INSTALL): Action.INSTALL_ANEW,",
            ),
            Edit(
                "shardkv.shards",
                "    (State.SERVING, Event.CHUNK): Action.INSTALLED,",
                "    (State.SERVING, Event.CHUNK): Action.STAGE,",
            ),
        ),
    ),
    Mutant(
        "deleted-before-it-is-installed",
        "lessons 47: oxia#899",
        "the source is deleted before the destination has committed the install",
        (
            Edit(
                "ctrler.moves",
                "            while (again := await self._copy(move.source, move.target, shard, position, summary)) is not None:",
                "            await self.delete(move.source, shard, PATIENCE_S)\n"
                "            while (again := await self._copy(move.source, move.target, shard, position, summary)) is not None:",
            ),
        ),
    ),
    Mutant(
        "next-posted-blindly",
        "scenarios 5: going on blindly after ErrMaybe",
        "a controller that does not know whether its post was taken goes on with its own",
        (
            Edit(
                "ctrler.controller",
                "            stored, _ = await self._get(NEXT)\n            return stored == value",
                "            self._mine = unpack_change(value)\n            return True",
            ),
            Edit(
                "ctrler.controller",
                "        change, _ = await self._next()\n        current, _ = await self.current()\n        if change is None",
                "        change = self.__dict__.pop('_mine', None) or (await self._next())[0]\n"
                "        current, _ = await self.current()\n        if change is None",
            ),
        ),
    ),
    Mutant(
        "next-not-compared",
        "scenarios 2.3, part C: the versioned put decides",
        "a controller overwrites another's posted change of the same number",
        (
            Edit(
                "ctrler.controller",
                "        if change is not None and change.config.num >= new.num:\n            return False\n",
                "        if change is not None and change.config.num > new.num:\n            return False\n",
            ),
        ),
    ),
    Mutant(
        "current-before-the-shards",
        "scenarios 2.3: the order of a change",
        "the configuration is in force, and its old owners are cleaned, though shards have not arrived",
        (
            Edit(
                "ctrler.controller",
                "            kept = await self._each(moves, mover.move)\n",
                "            kept = False\n            with trio.move_on_after(0.05):\n                kept = await self._each(moves, mover.move)\n",
            ),
        ),
    ),
    Mutant(
        "last-group-leaves-with-its-data",
        "our own: simulation seed 11",
        "keys that are written between the controller's look and the freeze go with the last group",
        (
            Edit(
                "shardkv.group",
                "                    if command.gid == NOBODY and record.rows:",
                "                    if False:",
            ),
            Edit("ctrler.controller", "            if not new.groups:\n", "            if False:\n"),
        ),
    ),
    Mutant(
        "staged-rows-not-compared",
        "lessons 49: a partial snapshot used as complete",
        "an install serves what is staged, without comparing it with what the source had",
        (
            Edit(
                "shardkv.group",
                "        if record.position < wanted.last:\n            return error(Code.RESUME, record.position)\n        staged =",
                "        staged =",
            ),
            Edit("shardkv.group", "        if staged != wanted:\n", "        if False:\n"),
            Edit(
                "ctrler.moves",
                "                    after, more = page.last, page.more\n",
                "                    after, more = page.last, False\n",
            ),
            Edit(
                "ctrler.moves",
                "            if reached is None or reached < summary.last:\n",
                "            if reached is None:\n",
            ),
        ),
    ),
)
