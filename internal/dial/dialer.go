package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// ErrAddress is the error of a Dialer if none of the addresses of a name is
// Allowed. Nothing was sent then. Rooms say it in their own words.
var ErrAddress = errors.New("the address is private, local or reserved, or that of a metadata service")

// Within is how long a Dialer tries if it is not told.
const Within = 10 * time.Second

// Dialer connects to Allowed addresses. The zero value connects to the public
// internet. It is safe for concurrent use.
type Dialer struct {
	Private bool          // see Allowed
	Within  time.Duration // resolving and connecting take at most this long; Within if 0

	// Lookup resolves a host name; the system's resolver if nil.
	Lookup func(ctx context.Context, name string) ([]netip.Addr, error)
}

// DialContext connects to addr, a name or an address with a port, and has the
// shape that net/http wants. Each allowed address of a name is tried in turn.
// Its errors are ErrAddress and those of package net.
func (d Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.within())
	defer cancel()
	name, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	addrs, err := d.Resolve(ctx, name)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{KeepAlive: 30 * time.Second}
	var failed error
	for i, a := range addrs {
		// Each address gets its share of the time that is left.
		deadline, _ := ctx.Deadline() // which the time limit above set
		share, stop := context.WithTimeout(ctx, time.Until(deadline)/time.Duration(len(addrs)-i))
		conn, err := dialer.DialContext(share, network, net.JoinHostPort(a.String(), port))
		stop()
		if err == nil {
			return conn, nil
		}
		if failed == nil {
			failed = err
		}
	}
	return nil, failed
}

// Resolve returns those addresses of name, which may be an address itself, that
// are Allowed, at least one. Who dials others than these has not been checked.
func (d Dialer) Resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	addrs, err := d.lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	var allowed []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); Allowed(a, d.Private) {
			allowed = append(allowed, a)
		}
	}
	if len(allowed) == 0 {
		return nil, ErrAddress
	}
	return allowed, nil
}

func (d Dialer) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a}, nil
	}
	if d.Lookup != nil {
		return d.Lookup(ctx, name)
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	return addrs, nil
}

func (d Dialer) within() time.Duration {
	if d.Within > 0 {
		return d.Within
	}
	return Within
}
