"""How the tests of killed, parted and distributed packing pack the large release: 38 small shards in two encodings."""

from shards.packing.options import PackOptions
from shards.renditions.rendition import Size

OPTIONS = PackOptions(sizes=(Size(64), Size(96, raw=True)), shard_images=4)
GIVEN = ("--sizes", "64,96:raw", "--shard-images", "4")  # the same, as options of `cxrdali shard`
SHARDS = 38
