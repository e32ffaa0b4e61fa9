"""What happened to my cluster? Five accidents, played in the simulator with the real peers, and left as directories on the
disk for `shardkv inspect`: `shardkv story NAME DIR` makes one; docs/what-happened.md reads them."""
