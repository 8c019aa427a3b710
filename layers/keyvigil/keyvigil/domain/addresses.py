"""Which addresses KeyVigil itself may connect to when a tenant names the host."""

import ipaddress

# Source: https://www.iana.org/assignments/ipv6-unicast-address-assignments: what is given to networks lies in here.
_ALLOCATED = ipaddress.IPv6Network("2000::/3")
# What `ipaddress` takes for global although it is not a host on the internet, or may lead to one that is not.
_NOT_PUBLIC_6 = (
    ipaddress.IPv6Network("2001::/23"),  # Teredo, ORCHID, AMT and other protocols (RFC 2928)
    ipaddress.IPv6Network("2002::/16"),  # 6to4: carries an IPv4 address (RFC 3056)
    ipaddress.IPv6Network("3fff::/20"),  # documentation (RFC 9637)
)
_NOT_PUBLIC_4 = (ipaddress.IPv4Network("192.88.99.0/24"),)  # 6to4 relays (RFC 7526)

type Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def may_be_called(address: Address) -> bool:
    """Say whether an address is a host on the public internet, and nothing else.

    Refused are loopback, private, shared, link-local (169.254.169.254 among them), unique-local (fd00:ec2::254),
    multicast, reserved and documentation addresses, and every IPv6 address that carries an IPv4 one: mapped,
    compatible, NAT64, 6to4, Teredo.
    """
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        return address in _ALLOCATED and not any(address in each for each in _NOT_PUBLIC_6)
    return not any(address in each for each in _NOT_PUBLIC_4)
