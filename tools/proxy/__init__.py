"""A bad network between real processes: a TCP proxy on the loopback that drops or delays whole frames.

    async with open_proxy(addresses) as proxy:                  # {"server-0-0": "127.0.0.1:20001", ...}
        routes = await proxy.join("server-0-1")                 # where this host dials whom from now on
        proxy.set("server-0-1", "server-0-0", CUT)              # one way, silently
        proxy.split([["server-0-0"], ["server-0-1", "client"]]) # both ways, between the sides
        proxy.mend()

A *host* is a name: a peer's, which can be dialled, or a client's, which cannot. `join` opens a port for each pair of the
host that dials and the one that is dialled, so the proxy knows both ends of every connection without asking. What it returns
maps the real addresses to those ports, as the `[routes]` of a peer's settings and `TcpRpcClient(routes=...)` take it: all
other files, records and messages keep the real addresses. `local.behind_proxy` does it for a whole cluster of `LocalCluster`.

`Conditions` hold for a *way*, an ordered pair of hosts, whoever dialled: requests and messages from a to b, and the replies
that a gives b. They may change at any moment, also for frames that are on their way.

Left out, as TCP hides it from everybody: damaged, repeated and truncated frames. Needs no privileges.
"""

from tools.proxy.conditions import CUT, PERFECT, UNRELIABLE, Conditions
from tools.proxy.switchboard import Proxy, WayCount, open_proxy

__all__ = ["CUT", "PERFECT", "UNRELIABLE", "Conditions", "Proxy", "WayCount", "open_proxy"]
