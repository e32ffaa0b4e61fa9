"""The TOML file of one peer: read with every mistake told in one line, and written.

    format = 1
    cluster = "8f14e45fceea167a5a36dedd4bea2543"   # 16 bytes in hex: the same in every file of the cluster
    gid = 1                                        # 0 = the controller group
    peer = 0                                       # which of [peers] this is
    data = "server-1-0"                            # its data directory, relative to this file
    listen = "127.0.0.1:20101"                     # optional: where to listen, if not at its own address below
    controllers = ["127.0.0.1:20001"]              # the controller group's peers, in order of number
    store = "kvraft"                               # what the controllers keep the configuration in: kvraft, kvsrv
    shards = 12
    lease_reads = false                            # optional: true lets a leader answer gets under its lease
    insecure = false                               # true allows addresses other than loopback: there is no TLS yet

    [routes]                                       # optional: dial the second address where the first one is meant
    "127.0.0.1:20102" = "127.0.0.1:40001"

    retain_bases = 0                               # optional: how many bases it keeps, one per purge of its log

    [peers.0]                                      # the peers of its group, itself included
    address = "127.0.0.1:20101"
    incarnation = 4242424242                       # random, drawn when the peer was made; on its disk too

The file says who a peer is; its data directory says the same, and a peer whose file and directory differ refuses to
run. The file holds nothing that a peer learns: it may be written again or copied at any time.
"""

from __future__ import annotations

import ipaddress
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardkv.host import PeerSpec

FORMAT = 1
CLUSTER_ID_BYTES = 16
STORES = ("kvraft", "kvsrv")
MAX_SHARDS = 1 << 16
MAX_GROUP_PEERS = 9
MAX_BASES = 10_000
MAX_INCARNATION = (1 << 63) - 1
"""The largest integer of TOML."""

Address = tuple[str, int]


class SettingsError(Exception):
    """A file does not say what it has to. The text is one line that names the file, the key and what would be right."""


@dataclass(frozen=True)
class PeerSettings:
    """What the file of one peer says. `directory` is absolute."""

    cluster: bytes
    gid: int
    peer: int
    directory: Path
    listen: Address
    peers: Mapping[int, Address]
    incarnations: Mapping[int, int]
    controllers: tuple[str, ...]
    store: str = "kvraft"
    shards: int = 12
    insecure: bool = False
    lease_reads: bool = False
    routes: Mapping[str, str] = field(default_factory=dict)
    retain_bases: int = 0

    @property
    def name(self) -> str:
        """The peer's name, `server-<gid>-<peer>`."""
        return f"server-{self.gid}-{self.peer}"

    def spec(self) -> PeerSpec:
        """The same as the host of the peer takes it."""
        from shardkv.host import PeerSpec  # only whoever runs a peer needs it

        return PeerSpec(
            cluster=self.cluster,
            gid=self.gid,
            peer=self.peer,
            incarnation=self.incarnations[self.peer],
            directory=self.directory,
            listen=self.listen,
            peers=self.peers,
            incarnations=self.incarnations,
            shards=self.shards,
            controllers=self.controllers,
            store=self.store,
            lease_reads=self.lease_reads,
            routes=self.routes,
            retain_bases=self.retain_bases,
        )


def read_settings(path: Path) -> PeerSettings:
    """The settings of the peer whose file this is. Raises `SettingsError`."""
    found = Table.read(path)
    found.integer("format", FORMAT, FORMAT)
    cluster = found.hex("cluster", CLUSTER_ID_BYTES)
    gid = found.integer("gid", 0, (1 << 31) - 1)
    insecure = found.boolean("insecure", False)
    peers: dict[int, Address] = {}
    incarnations: dict[int, int] = {}
    for number, table in found.numbered("peers", MAX_GROUP_PEERS).items():
        peers[number] = table.address("address", insecure)
        incarnations[number] = table.integer("incarnation", 1, MAX_INCARNATION)
        table.end()
    peer = found.integer("peer", 0, (1 << 31) - 1)
    if peer not in peers:
        raise found.wrong("peer", f"peer {peer} is not in [peers], which has {', '.join(map(str, sorted(peers)))}")
    if len(set(peers.values())) != len(peers):
        raise found.wrong("peers", "two peers have the same address")
    settings = PeerSettings(
        cluster=cluster,
        gid=gid,
        peer=peer,
        directory=(path.parent / found.text("data")).resolve(),
        listen=found.address("listen", insecure) if "listen" in found else peers[peer],
        peers=peers,
        incarnations=incarnations,
        controllers=found.addresses("controllers", insecure),
        store=found.choice("store", STORES, STORES[0]),
        shards=found.integer("shards", 1, MAX_SHARDS),
        insecure=insecure,
        lease_reads=found.boolean("lease_reads", False),
        routes=found.routes("routes", insecure),
        retain_bases=found.integer("retain_bases", 0, MAX_BASES, 0),
    )
    found.end()
    return settings


def settings_text(settings: PeerSettings, base: Path) -> str:
    """The file that says `settings`, to be stored in the folder `base`."""
    data = settings.directory
    own = settings.peers[settings.peer]
    return toml_text(
        {
            "format": FORMAT,
            "cluster": settings.cluster.hex(),
            "gid": settings.gid,
            "peer": settings.peer,
            "data": str(data.relative_to(base) if data.is_relative_to(base) else data),
            **({} if settings.listen == own else {"listen": address_text(settings.listen)}),
            "controllers": list(settings.controllers),
            "store": settings.store,
            "shards": settings.shards,
            "insecure": settings.insecure,
            **({"lease_reads": True} if settings.lease_reads else {}),
            **({"retain_bases": settings.retain_bases} if settings.retain_bases else {}),
            **({"routes": dict(sorted(settings.routes.items()))} if settings.routes else {}),
            "peers": {
                str(number): {"address": address_text(address), "incarnation": settings.incarnations[number]}
                for number, address in sorted(settings.peers.items())
            },
        }
    )


# --- addresses -------------------------------------------------------------------------------------------------------


def parse_address(text: str) -> Address:
    """`host:port` or `[IPv6]:port` in two. `ValueError` says what is wrong."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} is ambiguous: write an IPv6 address as [address]:port")
    if not colon or not host or not host.isprintable() or " " in host:
        raise ValueError(f"{text!r} is not host:port")
    if not (port.isascii() and port.isdecimal() and 1 <= int(port[:6]) <= 65535):
        raise ValueError(f"{text!r}: the port is a number of 1..65535")
    return host, int(port)


def address_text(address: Address) -> str:
    """The inverse of `parse_address`."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether nobody outside this machine reaches `host`. A name other than localhost counts as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --- TOML ------------------------------------------------------------------------------------------------------------


@dataclass
class Table:
    """A table of a TOML file, taken apart key by key; every mistake is a `SettingsError` that names file and key.

    `end` complains about what was not asked for, so it comes after all the questions.
    """

    path: Path
    values: dict[str, Any]
    prefix: str = ""
    asked: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> Table:
        """The whole file. Raises `SettingsError`."""
        try:
            return cls(path, tomllib.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise SettingsError(f"{path}: there is no such file") from None
        except OSError as error:
            raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"{path}: not a text in UTF-8: {error.reason} at byte {error.start}") from error
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{path}: not TOML: {error}") from error

    def __contains__(self, key: str) -> bool:
        self.asked.add(key)
        return key in self.values

    def wrong(self, key: str, why: str) -> SettingsError:
        """The error that says `why` about `key`."""
        return SettingsError(f"{self.path}: {self.prefix}{key}: {why}")

    def end(self) -> None:
        """Raise `SettingsError` if the table has a key that nobody asked for."""
        for key in self.values:
            if key not in self.asked:
                near = get_close_matches(key, sorted(self.asked - set(self.values)) or sorted(self.asked), 1)
                hint = f"; did you mean {self.prefix}{near[0]}?" if near else ""
                raise SettingsError(f"{self.path}: {self.prefix}{key}: unknown key{hint}")

    def _value(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        if key in self.values:
            return self.values[key]
        if default is not None:
            return default
        # A key that nobody knows beside one that is missing is one typo, and is told as one.
        strange = get_close_matches(key, [name for name in self.values if name not in self.asked], 1, 0.7)
        hint = f"; there is {self.prefix}{strange[0]}: did you mean {self.prefix}{key}?" if strange else ""
        raise self.wrong(key, f"missing{hint}")

    def text(self, key: str, default: str | None = None) -> str:
        """A string that is not empty."""
        value = self._value(key, default)
        if type(value) is not str or not value:
            raise self.wrong(key, f"must be a text in quotes, not {_shown(value)}")
        return value

    def integer(self, key: str, least: int, most: int, default: int | None = None) -> int:
        """An integer of least..most."""
        value = self._value(key, default)
        if type(value) is not int or not least <= value <= most:
            allowed = f"an integer of {least}..{most}" if least < most else str(least)
            raise self.wrong(key, f"must be {allowed}, not {_shown(value)}")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._value(key, default)
        if type(value) is not bool:
            raise self.wrong(key, f"must be true or false, not {_shown(value)}")
        return value

    def hex(self, key: str, length: int) -> bytes:
        """`length` bytes in hex."""
        text = self.text(key)
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) != length or len(text) != 2 * length:
            raise self.wrong(key, f"must be {length} bytes as {2 * length} hex digits, not {_shown(text)}")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        """One of some words."""
        value = self.text(key, default)
        if value not in choices:
            raise self.wrong(key, f"must be one of {', '.join(choices)}, not {_shown(value)}")
        return value

    def address(self, key: str, insecure: bool) -> Address:
        """An address; a loopback one unless `insecure`."""
        return self._address(key, self.text(key), insecure)

    def _address(self, key: str, text: str, insecure: bool) -> Address:
        try:
            address = parse_address(text)
        except ValueError as error:
            raise self.wrong(key, str(error)) from error
        if not insecure and not is_loopback(address[0]):
            raise self.wrong(key, f"{text} is reachable from outside and there is no TLS yet: needs insecure = true")
        return address

    def addresses(self, key: str, insecure: bool) -> tuple[str, ...]:
        """A list of addresses, one at least."""
        found = self._value(key)
        if type(found) is not list or not found or any(type(text) is not str for text in found):
            raise self.wrong(key, f'must be a list like ["127.0.0.1:20001"], not {_shown(found)}')
        return tuple(address_text(self._address(key, text, insecure)) for text in found)

    def routes(self, key: str, insecure: bool) -> dict[str, str]:
        """A table from addresses to addresses, empty if there is none."""
        found = self._value(key, {})
        if type(found) is not dict or any(type(text) is not str for text in found.values()):
            raise self.wrong(key, f'must be a table with lines like "127.0.0.1:1" = "127.0.0.1:2", not {_shown(found)}')
        return {
            address_text(self._address(key, meant, True)): address_text(self._address(key, dialled, insecure))
            for meant, dialled in found.items()
        }

    def integers(self, key: str, least: int, most: int) -> tuple[int, ...]:
        """A list of integers of least..most."""
        found = self._value(key)
        if type(found) is not list or any(type(value) is not int or not least <= value <= most for value in found):
            raise self.wrong(key, f"must be a list of integers of {least}..{most}, not {_shown(found)}")
        return tuple(found)

    def numbered(self, key: str, most: int) -> dict[int, Table]:
        """Tables by number, `[key.0]` and so on, one at least and `most` at most."""
        found = self._value(key)
        if type(found) is not dict or not 1 <= len(found) <= most:
            raise self.wrong(key, f"must be 1..{most} tables [{self.prefix}{key}.0] and so on, not {_shown(found)}")
        tables = {}
        for name, values in found.items():
            if not (name.isascii() and name.isdecimal() and str(int(name[:10])) == name):
                raise self.wrong(f"{key}.{name}", "must be a number")
            if type(values) is not dict:
                raise self.wrong(f"{key}.{name}", f"must be a table, not {_shown(values)}")
            tables[int(name)] = Table(self.path, values, f"{self.prefix}{key}.{name}.")
        return dict(sorted(tables.items()))


def _shown(value: Any) -> str:
    return f"{json.dumps(value, default=str):.60}"


def toml_text(values: Mapping[str, Any]) -> str:
    """TOML with these values: text, integers, booleans, lists of them, and tables of tables."""
    lines: list[str] = []
    _write_table(lines, "", values)
    return "\n".join(lines) + "\n"


def _key_text(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else json.dumps(key)


def _write_table(lines: list[str], name: str, values: Mapping[str, Any]) -> None:
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    if name and plain:
        lines += ["", f"[{name}]"]
    # JSON's text, integers, booleans and lists of them are TOML's, but for DEL.
    lines += [
        f"{_key_text(key)} = {json.dumps(value, ensure_ascii=False).replace(chr(127), chr(92) + 'u007f')}"
        for key, value in plain.items()
    ]
    for key, value in values.items():
        if isinstance(value, Mapping):
            _write_table(lines, f"{name}.{key}" if name else key, value)
