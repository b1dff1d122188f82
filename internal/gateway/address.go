package gateway

import "net/netip"

// metadata are the addresses at which clouds hand out a machine's own
// credentials. No connection may name them.
var metadata = addresses("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23", "100.100.100.200", "168.63.129.16")

// reserved are the ranges that are not the public internet (IANA special-purpose
// registries), beyond what netip names itself.
var reserved = prefixes("0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24",
	"203.0.113.0/24", "240.0.0.0/4", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16", "fec0::/10")

var (
	nat64 = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052: an IPv4 address in the last 32 bits
	sixTo = netip.MustParsePrefix("2002::/16")    // RFC 3056: an IPv4 address in bits 16 to 48
)

// Allowed reports whether an upstream may have address a. private admits
// loopback, private, link-local and reserved addresses; the addresses of cloud
// metadata services, multicast and the unspecified address are never allowed.
func Allowed(a netip.Addr, private bool) bool {
	a = a.Unmap().WithZone("")
	if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || metadata[a] {
		return false
	}
	if inner, ok := embedded(a); ok && !Allowed(inner, private) {
		return false
	}
	if private {
		return true
	}
	if a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsInterfaceLocalMulticast() {
		return false
	}
	for _, p := range reserved {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// embedded returns the IPv4 address that a gateway would translate a to.
func embedded(a netip.Addr) (netip.Addr, bool) {
	b := a.As16()
	switch {
	case nat64.Contains(a):
		return netip.AddrFrom4([4]byte(b[12:16])), true
	case sixTo.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return netip.Addr{}, false
}

func addresses(list ...string) map[netip.Addr]bool {
	m := map[netip.Addr]bool{}
	for _, s := range list {
		m[netip.MustParseAddr(s)] = true
	}
	return m
}

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}
