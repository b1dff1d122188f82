package dial

import "net/netip"

// never are the addresses at which clouds hand out a machine's own credentials
// (AWS, Google, Azure, Oracle, Alibaba, Tencent, Scaleway, OpenStack), and their
// neighbours where a cloud keeps the range to itself.
var never = prefixes("169.254.169.0/24", "169.254.170.0/24", "169.254.0.23/32", "169.254.42.42/32", "100.100.100.200/32", "168.63.129.16/32",
	"192.0.0.192/32", "fd00:ec2::/32", "fd20:ce::254/128", "fd00:42::42/128", "fd00:c1::a9fe:a9fe/128", "fe80::a9fe:a9fe/128")

// reserved are the IPv4 ranges that are not the public internet (IANA's
// registry of special-purpose addresses), beyond what netip names itself.
var reserved = prefixes("0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
	"203.0.113.0/24", "240.0.0.0/4")

// global is all that IANA gave out as unicast addresses of the public internet;
// special are the ranges within it that are something else.
var (
	global  = netip.MustParsePrefix("2000::/3")
	special = prefixes("2001::/23", "2001:db8::/32", "3fff::/20")
)

// Addresses that carry an IPv4 address, to which some router translates them.
var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")   // RFC 6052, section 2.1
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215: any of the forms of RFC 6052
	sixTo      = netip.MustParsePrefix("2002::/16")      // RFC 3056: in bits 16 to 48
	teredo     = netip.MustParsePrefix("2001::/32")      // RFC 4380: the last 32 bits, inverted
	compatible = netip.MustParsePrefix("::/96")          // RFC 4291, section 2.5.5.1
	translated = netip.MustParsePrefix("::ffff:0:0:0/96")
)

// Allowed reports whether a may be dialled. private admits loopback, private,
// link-local and reserved addresses. Never allowed are the addresses of cloud
// metadata services, multicast, broadcast, the unspecified address, and a zone
// on an address that has none. An address that carries an IPv4 address (mapped,
// NAT64, 6to4, Teredo and their like) is allowed only if that one is too.
func Allowed(a netip.Addr, private bool) bool {
	if a.Zone() != "" && !a.Unmap().IsLinkLocalUnicast() {
		return false
	}
	a = a.Unmap().WithZone("")
	if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a == broadcast || in(never, a) {
		return false
	}
	for _, inner := range carried(a) {
		if !Allowed(inner, private) {
			return false
		}
	}
	return private || public(a)
}

// Public reports whether a is an address of the public internet.
func Public(a netip.Addr) bool { return Allowed(a, false) }

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func public(a netip.Addr) bool {
	if a.Is4() {
		return !a.IsLoopback() && !a.IsPrivate() && !a.IsLinkLocalUnicast() && !in(reserved, a)
	}
	return nat64.Contains(a) || global.Contains(a) && !in(special, a)
}

// carried returns the IPv4 addresses that a router might make of a.
func carried(a netip.Addr) []netip.Addr {
	b := a.As16()
	four := func(w, x, y, z byte) netip.Addr { return netip.AddrFrom4([4]byte{w, x, y, z}) }
	last := four(b[12], b[13], b[14], b[15])
	switch {
	case a.Is4(), a.IsLoopback():
		return nil
	case nat64.Contains(a), compatible.Contains(a), translated.Contains(a):
		return []netip.Addr{last}
	case sixTo.Contains(a):
		return []netip.Addr{four(b[2], b[3], b[4], b[5])}
	case teredo.Contains(a):
		return []netip.Addr{four(^b[12], ^b[13], ^b[14], ^b[15])}
	case nat64Local.Contains(a):
		return present(four(b[6], b[7], b[9], b[10]), four(b[7], b[9], b[10], b[11]), four(b[9], b[10], b[11], b[12]), last)
	}
	return nil
}

// present returns those of list that are not empty: which of the forms a network
// uses cannot be seen from an address, and the other forms' places are zero.
func present(list ...netip.Addr) []netip.Addr {
	out := list[:0]
	for _, a := range list {
		if !in(reserved[:1], a) {
			out = append(out, a)
		}
	}
	return out
}

func in(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}
