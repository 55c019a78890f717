"""Which network addresses media may be fetched from: public ones, and networks that are named.

What is checked is the address that a connection is made to, in the form that ``getaddrinfo`` made
of a name or of any way to write a number, so that no spelling of a host has to be understood here.
"""

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Services of clouds that hand credentials to whoever can reach them: AWS, Azure, Google Cloud and
# Oracle; AWS ECS and EKS; Tencent; Alibaba; Oracle's old one; Azure's wire server, which is a
# public address; AWS and Google Cloud by IPv6. Nobody keeps pictures there, so that no network
# that is named opens them.
_METADATA_SERVICES = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "169.254.0.23",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
    )
)

# RFC 4291 section 2.4 and the IANA registry: all addresses of IPv6 that are routed lie in here.
_IPV6_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# Not global by the IANA registries of 2024; Python before 3.11.10 says otherwise of some.
_NOT_GLOBAL = tuple(
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20")
)
# RFC 6052: the last 32 bits are an IPv4 address that a gateway connects to.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_IPV4_MASK = 0xFFFFFFFF


def is_allowed_address(address: str, allowed_networks: Sequence[Network] = ()) -> bool:
    """Tell whether a connection may be made.

    Loopback, private, shared (RFC 6598), link-local, multicast, reserved and unspecified addresses
    are not public, and neither is an IPv6 address that stands for such an IPv4 address: mapped,
    6to4 or NAT64. Teredo and the deprecated ways to embed IPv4 are refused altogether.

    Args:
        address: A numeric address as ``getaddrinfo`` gives it; it may have a scope (``%eth0``).
        allowed_networks: Networks that the operator opens beside public addresses. They are
            compared with the address as it is and with the IPv4 address it stands for.

    Returns:
        Whether it is public or in one of the networks, and no cloud's metadata service.
    """
    try:
        given: Address = ipaddress.ip_address(address)
    except ValueError:
        return False
    target = _embedded_ipv4(given) or given
    if target in _METADATA_SERVICES:
        return False
    if any(one in network for network in allowed_networks for one in (given, target)):
        return True
    if isinstance(target, ipaddress.IPv6Address) and target not in _IPV6_GLOBAL_UNICAST:
        return False
    if any(target in network for network in _NOT_GLOBAL):
        return False
    # Multicast of global scope counts as global for the registry.
    return target.is_global and not target.is_multicast and not target.is_reserved


def _embedded_ipv4(address: Address) -> ipaddress.IPv4Address | None:
    """Give the IPv4 address that a connection to an IPv6 address ends at."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & _IPV4_MASK)
    return address.ipv4_mapped or address.sixtofour
