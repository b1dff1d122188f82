package dial_test

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/dial"
)

func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		addr            string
		public, private bool // allowed without, with allow_private
	}{
		{"8.8.8.8", true, true},
		{"172.32.0.1", true, true},
		{"100.128.0.1", true, true},
		{"2606:4700::1111", true, true},
		{"2a00:1450::1", true, true},
		{"64:ff9b::808:808", true, true}, // NAT64 of 8.8.8.8
		{"127.0.0.1", false, true},
		{"127.9.9.9", false, true},
		{"::1", false, true},
		{"10.1.2.3", false, true},
		{"172.16.0.1", false, true},
		{"192.168.1.1", false, true},
		{"100.64.0.1", false, true},
		{"169.254.1.1", false, true},
		{"169.254.171.5", false, true}, // AWS VPC Lattice: an upstream
		{"fe80::1", false, true},
		{"fe80::1%eth0", false, true},
		{"fec0::1", false, true},
		{"fc00::1", false, true},
		{"::ffff:127.0.0.1", false, true},
		{"::ffff:10.0.0.1", false, true},
		{"::127.0.0.1", false, true},       // IPv4-compatible
		{"::ffff:0:10.0.0.1", false, true}, // IPv4-translated
		{"64:ff9b::a00:1", false, true},    // NAT64 of 10.0.0.1
		{"64:ff9b:1::a00:1", false, true},
		{"2002:7f00:1::", false, true},            // 6to4 of 127.0.0.1
		{"2001:0:1:2:3:4:f5ff:fffe", false, true}, // Teredo of 10.0.0.1
		{"198.18.0.1", false, true},
		{"240.0.0.1", false, true},
		{"192.0.2.1", false, true},
		{"2001:db8::1", false, true},
		{"3fff::1", false, true},
		{"4000::1", false, true},
		{"100::1", false, true},
		{"5f00::1", false, true},
		{"169.254.169.254", false, false},
		{"169.254.169.253", false, false},
		{"169.254.170.2", false, false},
		{"169.254.170.23", false, false},
		{"169.254.0.23", false, false},
		{"169.254.42.42", false, false},
		{"100.100.100.200", false, false},
		{"168.63.129.16", false, false},
		{"192.0.0.192", false, false},
		{"::ffff:169.254.169.254", false, false},
		{"::169.254.169.254", false, false},
		{"::ffff:0:169.254.169.254", false, false},
		{"64:ff9b::a9fe:a9fe", false, false},
		{"64:ff9b:1::a9fe:a9fe", false, false},
		{"64:ff9b:1:a9fe:a9:fe00::", false, false},
		{"2002:a9fe:a9fe::1", false, false},
		{"2001:0:1:2:3:4:5601:5601", false, false},
		{"fd00:ec2::254", false, false},
		{"fd00:ec2::23", false, false},
		{"fd20:ce::254", false, false},
		{"fd00:42::42", false, false},
		{"fe80::a9fe:a9fe", false, false},
		{"fe80::a9fe:a9fe%eth0", false, false},
		{"2606:4700::1111%eth0", false, false},
		{"::1%lo", false, false},
		{"0.0.0.0", false, false},
		{"::", false, false},
		{"::ffff:0.0.0.0", false, false},
		{"255.255.255.255", false, false},
		{"224.0.0.1", false, false},
		{"ff02::1", false, false},
		{"ff01::1", false, false},
	} {
		a := netip.MustParseAddr(c.addr)
		if got := dial.Public(a); got != c.public {
			t.Errorf("%s without allow_private: %v", c.addr, got)
		}
		if got := dial.Allowed(a, true); got != c.private {
			t.Errorf("%s with allow_private: %v", c.addr, got)
		}
	}
	if dial.Allowed(netip.Addr{}, true) {
		t.Error("no address at all is allowed")
	}
}

// carriers are the ways to write an IPv4 address within an IPv6 one.
var carriers = map[string]func(b [4]byte) [16]byte{
	"mapped":     func(b [4]byte) [16]byte { return at([16]byte{10: 0xff, 11: 0xff}, b, 12, 13, 14, 15) },
	"compatible": func(b [4]byte) [16]byte { return at([16]byte{}, b, 12, 13, 14, 15) },
	"translated": func(b [4]byte) [16]byte { return at([16]byte{8: 0xff, 9: 0xff}, b, 12, 13, 14, 15) },
	"nat64":      func(b [4]byte) [16]byte { return at([16]byte{0, 0x64, 0xff, 0x9b}, b, 12, 13, 14, 15) },
	"local /96":  func(b [4]byte) [16]byte { return at([16]byte{0, 0x64, 0xff, 0x9b, 0, 1}, b, 12, 13, 14, 15) },
	"local /48":  func(b [4]byte) [16]byte { return at([16]byte{0, 0x64, 0xff, 0x9b, 0, 1}, b, 6, 7, 9, 10) },
	"local /56":  func(b [4]byte) [16]byte { return at([16]byte{0, 0x64, 0xff, 0x9b, 0, 1}, b, 7, 9, 10, 11) },
	"local /64":  func(b [4]byte) [16]byte { return at([16]byte{0, 0x64, 0xff, 0x9b, 0, 1}, b, 9, 10, 11, 12) },
	"6to4":       func(b [4]byte) [16]byte { return at([16]byte{0x20, 0x02}, b, 2, 3, 4, 5) },
	"teredo": func(b [4]byte) [16]byte {
		return at([16]byte{0x20, 0x01, 4: 8, 5: 8, 6: 8, 7: 8}, [4]byte{^b[0], ^b[1], ^b[2], ^b[3]}, 12, 13, 14, 15)
	},
}

func at(a [16]byte, b [4]byte, places ...int) [16]byte {
	for i, p := range places {
		a[p] = b[i]
	}
	return a
}

// No way of writing an IPv4 address reaches what the address itself does not,
// and no setting forbids less than another that is stricter.
func TestNoDisguiseReachesMore(t *testing.T) {
	check := func(four uint32) {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], four)
		plain := netip.AddrFrom4(b)
		for name, carry := range carriers {
			six := netip.AddrFrom16(carry(b))
			if six.IsLoopback() || six.Unmap().IsUnspecified() {
				continue // "::1" and "::" mean themselves
			}
			for _, private := range []bool{false, true} {
				// Which form a local NAT64 prefix uses cannot be seen: one that
				// names no host (0.0.0.0/8) is taken for another form's filler.
				if b[0] == 0 && name != "mapped" {
					continue
				}
				if dial.Allowed(six, private) && !dial.Allowed(plain, private) {
					t.Errorf("%s as %s %s is allowed with private=%v", plain, name, six, private)
				}
			}
			if dial.Public(six) && !dial.Allowed(six, true) {
				t.Errorf("%s is allowed only without allow_private", six)
			}
			if zoned := six.WithZone("eth0"); name != "mapped" && dial.Allowed(zoned, true) {
				t.Errorf("%s is allowed", zoned)
			}
		}
	}
	for _, s := range []string{"169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "127.0.0.1", "10.0.0.1", "255.255.255.255", "224.0.0.1", "8.8.8.8"} {
		b := netip.MustParseAddr(s).As4()
		check(binary.BigEndian.Uint32(b[:]))
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		check(r.Uint32())
		check(0xa9fe0000 | r.Uint32()&0xffff) // link-local: where metadata services live
	}
}

func FuzzAllowed(f *testing.F) {
	for _, s := range []string{"8.8.8.8", "fe80::1%eth0", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "::ffff:10.0.0.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return
		}
		if dial.Public(a) && (!dial.Allowed(a, true) || a.Zone() != "" || a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsMulticast()) {
			t.Errorf("%s counts as public", a)
		}
		if dial.Allowed(a, true) != dial.Allowed(a.Unmap(), true) {
			t.Errorf("%s and %s are treated differently", a, a.Unmap())
		}
	})
}

func listener(t *testing.T) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

func TestWhatIsDialledWasChecked(t *testing.T) {
	port := listener(t)
	for _, host := range []string{"127.0.0.1", "localhost", "::ffff:127.0.0.1"} {
		to := net.JoinHostPort(host, port)
		if conn, err := (dial.Dialer{}).DialContext(t.Context(), "tcp", to); !errors.Is(err, dial.ErrAddress) {
			t.Errorf("%s without allow_private: %v %v", host, conn, err)
		}
		conn, err := dial.Dialer{Private: true}.DialContext(t.Context(), "tcp", to)
		if err != nil {
			t.Errorf("%s with allow_private: %v", host, err)
			continue
		}
		conn.Close()
	}
	for _, never := range []string{"169.254.169.254:80", "[fd00:ec2::254]:80", "[::ffff:169.254.169.254]:80", "0.0.0.0:" + port, "[::]:" + port} {
		if _, err := (dial.Dialer{Private: true}).DialContext(t.Context(), "tcp", never); !errors.Is(err, dial.ErrAddress) {
			t.Errorf("%s: %v", never, err)
		}
	}
	if _, err := (dial.Dialer{}).DialContext(t.Context(), "tcp", "no-port"); err == nil {
		t.Error("an address without a port was dialled")
	}
}

// A name that means something else when it is asked for again gains nothing.
func TestANameIsResolvedOnce(t *testing.T) {
	port := listener(t)
	var asked int
	d := dial.Dialer{Within: 200 * time.Millisecond, Lookup: func(context.Context, string) ([]netip.Addr, error) {
		asked++
		if asked == 1 {
			return addrs("192.0.2.1", "198.51.100.7"), nil // refused, both
		}
		return addrs("127.0.0.1"), nil
	}}
	if _, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort("rebind.example", port)); !errors.Is(err, dial.ErrAddress) || asked != 1 {
		t.Errorf("%v after %d questions", err, asked)
	}
}

func TestOnlyAllowedAddressesOfANameAreUsed(t *testing.T) {
	port := listener(t)
	d := dial.Dialer{Private: true, Lookup: func(context.Context, string) ([]netip.Addr, error) {
		return addrs("169.254.169.254", "::ffff:169.254.169.254", "0.0.0.0", "127.0.0.1"), nil
	}}
	got, err := d.Resolve(t.Context(), "mixed.example")
	if err != nil || !slices.Equal(got, addrs("127.0.0.1")) {
		t.Errorf("%v %v", got, err)
	}
	conn, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort("mixed.example", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.RemoteAddr().String(); got != net.JoinHostPort("127.0.0.1", port) {
		t.Errorf("dialled %s", got)
	}
}

func TestTheNextAddressIsTried(t *testing.T) {
	port := listener(t)
	d := dial.Dialer{Private: true, Within: 5 * time.Second, Lookup: func(context.Context, string) ([]netip.Addr, error) {
		return addrs("127.0.0.2", "127.0.0.1"), nil // nothing listens on the first
	}}
	conn, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort("two.example", port))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	closed := dial.Dialer{Private: true, Lookup: func(context.Context, string) ([]netip.Addr, error) { return addrs("127.0.0.2"), nil }}
	var op *net.OpError
	if _, err := closed.DialContext(t.Context(), "tcp", net.JoinHostPort("one.example", port)); !errors.As(err, &op) || op.Op != "dial" {
		t.Errorf("%v is no dial error: the gateway could not tell that nothing was sent", err)
	}
}

func TestAResolverThatFails(t *testing.T) {
	broken := errors.New("no such host")
	d := dial.Dialer{Lookup: func(context.Context, string) ([]netip.Addr, error) { return nil, broken }}
	if _, err := d.DialContext(t.Context(), "tcp", "x.example:443"); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	d.Lookup = func(context.Context, string) ([]netip.Addr, error) { return nil, nil }
	if _, err := d.DialContext(t.Context(), "tcp", "x.example:443"); !errors.Is(err, dial.ErrAddress) {
		t.Errorf("a name without addresses: %v", err)
	}
}

func addrs(list ...string) []netip.Addr {
	out := make([]netip.Addr, len(list))
	for i, s := range list {
		out[i] = netip.MustParseAddr(s)
	}
	return out
}
