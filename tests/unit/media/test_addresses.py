import ipaddress

import pytest

from vlmserve.media.addresses import is_allowed_address


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:2800:21f:cb07::1"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_allowed_address(address)


@pytest.mark.parametrize("address", ["::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"])
def test_what_stands_for_a_public_ipv4_address_is_allowed(address: str) -> None:
    assert is_allowed_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.254", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255",
        "192.168.1.1", "100.64.0.1", "169.254.1.1", "192.0.0.9", "192.0.2.1", "192.88.99.1",
        "198.18.0.1", "198.51.100.7", "203.0.113.5", "224.0.0.1", "224.0.1.1", "239.255.255.250",
        "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd12:3456::1", "ff02::1",
        "ff0e::1", "100::1", "2001:db8::1", "3fff::1", "2001::1", "5f00::1", "64:ff9b:1::808:808",
        "::127.0.0.1", "::8.8.8.8",
    ],
)  # fmt: skip
def test_other_addresses_are_refused(address: str) -> None:
    assert not is_allowed_address(address)


@pytest.mark.parametrize("inner", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "224.0.1.1"])
@pytest.mark.parametrize("prefix", ["::ffff:0:0", "64:ff9b::", "2002::"])
def test_no_ipv6_address_leads_to_a_private_ipv4_one(inner: str, prefix: str) -> None:
    shift = 80 if prefix == "2002::" else 0
    number = int(ipaddress.IPv6Address(prefix)) + (int(ipaddress.IPv4Address(inner)) << shift)

    assert not is_allowed_address(str(ipaddress.IPv6Address(number)))


@pytest.mark.parametrize("text", ["", "localhost", "0177.0.0.1", "2130706433", "127.1", "1.2.3"])
def test_only_what_getaddrinfo_returns_is_an_address(text: str) -> None:
    assert not is_allowed_address(text)


@pytest.mark.parametrize("address", ["10.20.3.4", "::ffff:10.20.3.4", "fd00:1::5"])
def test_named_networks_are_open(address: str) -> None:
    networks = [ipaddress.ip_network("10.20.0.0/16"), ipaddress.ip_network("fd00:1::/32")]

    assert is_allowed_address(address, networks)
    assert not is_allowed_address("10.21.0.1", networks)


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "168.63.129.16", "fd00:ec2::254", "::ffff:169.254.169.254"]
)
def test_metadata_services_stay_closed(address: str) -> None:
    everything = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]

    assert not is_allowed_address(address, everything)
