"""Address descriptors (BOLT 7, B7.04)."""

import pytest

from salama.wire import AddressType, Malformed, NodeAddress, Unencodable, decode_addresses, encode_addresses
from salama.wire.addresses import count_hostnames, encode_address

IPV4 = NodeAddress(AddressType.IPV4, "127.0.0.1", 9735)
IPV6 = NodeAddress(AddressType.IPV6, "2001:db8::1", 1)
TOR = NodeAddress(AddressType.TOR_V3, "a" * 56 + ".onion", 65535)
NAME = NodeAddress(AddressType.DNS, "node.example.org", 9735)
TOR_V2 = b"\3" + bytes(10) + b"\x26\7"


def test_descriptors() -> None:
    encoded = encode_addresses([NAME, TOR, IPV4, IPV6])
    assert encoded.hex() == (
        "017f0000012607"
        "0220010db80000000000000000000000010001"
        "04" + "00" * 35 + "ffff"
        "0510" + b"node.example.org".hex() + "2607"
    )
    assert decode_addresses(encoded) == (IPV4, IPV6, TOR, NAME)
    assert [str(a) for a in (IPV4, IPV6)] == ["127.0.0.1:9735", "[2001:db8::1]:1"]


def test_what_cannot_be_used_is_left_out() -> None:
    zero_port = encode_address(IPV4)[:-2] + b"\0\0"
    odd_name = b"\5\4a\x1b[m\x26\7"
    assert decode_addresses(zero_port + encode_address(IPV4) + TOR_V2 + odd_name + encode_address(NAME)) == (IPV4, NAME)
    assert decode_addresses(encode_address(IPV4) + b"\6\xff\xff") == (IPV4,)
    assert decode_addresses(encode_address(IPV4) + b"\0\0\0") == (IPV4,)


@pytest.mark.parametrize("whole", [encode_address(a) for a in (IPV4, IPV6, TOR, NAME)] + [TOR_V2])
def test_descriptors_that_are_cut_off_are_refused(whole: bytes) -> None:
    for cut in range(1, len(whole)):
        with pytest.raises(Malformed):
            decode_addresses(whole[:cut])


@pytest.mark.parametrize(
    "wrong",
    [
        IPV4._replace(port=0),
        IPV4._replace(port=65536),
        IPV4._replace(host="::1"),
        IPV6._replace(host="localhost"),
        TOR._replace(host="a.onion"),
        TOR._replace(host="!" * 56 + ".onion"),
        NAME._replace(host="a b"),
        NAME._replace(host=""),
        NAME._replace(host="a" * 256),
        NAME._replace(host="bücher.example"),
        NodeAddress(AddressType.TOR_V2, "a" * 16 + ".onion", 1),
    ],
)
def test_wrong_addresses_are_not_announced(wrong: NodeAddress) -> None:
    with pytest.raises(Unencodable):
        encode_addresses([wrong])


def test_one_host_name_at_most() -> None:
    with pytest.raises(Unencodable):
        encode_addresses([NAME, NAME])
    twice = encode_address(IPV4) + TOR_V2 + encode_address(NAME) * 2
    assert [count_hostnames(data) for data in (b"", encode_address(IPV6), encode_address(NAME), twice)] == [0, 0, 1, 2]
