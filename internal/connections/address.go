package connections

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/countersign/countersign/internal/dial"
)

// checkURL returns raw in its plain form (lower-case scheme and host, no
// trailing slash), or says why an upstream may not be named like that.
func checkURL(raw string, private bool) (string, error) {
	u, err := url.Parse(raw)
	switch {
	case len(raw) > maxURL || err != nil:
		return "", bad("url", "is not a URL of at most %d bytes", maxURL)
	case u.Scheme != "https" && u.Scheme != "http":
		return "", bad("url", "must begin with https://")
	case u.User != nil:
		return "", bad("url", "must not hold a user or password; put the credential in a secret")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(raw, "#"):
		return "", bad("url", "must not have a query or a fragment")
	case u.Opaque != "" || u.Hostname() == "":
		return "", bad("url", "names no host")
	case strings.Contains(u.Path, "..") || strings.Contains(u.Path, "//") || strings.ContainsAny(u.Path, "\\\x00") || u.RawPath != "":
		return "", bad("url", "its path must be plain: no .., // or escaped slashes")
	}
	if err := checkHost(u, private); err != nil {
		return "", err
	}
	u.Host = strings.ToLower(u.Host)
	return strings.TrimRight(u.String(), "/"), nil
}

func checkHost(u *url.URL, private bool) error {
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if p := u.Port(); p != "" {
		if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
			return bad("url", "port %q is not between 1 and 65535", clip(p))
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return bad("url", "its port is empty")
	}
	addr, err := netip.ParseAddr(host)
	literal := err == nil
	switch {
	case literal && addr.Zone() != "", !literal && !plainHost(host):
		return bad("url", "%q is not a host name or an address in its usual form", clip(host))
	case literal && !dial.Allowed(addr, true):
		return bad("url", "%s is not the address of a server, or one at which clouds hand out a machine's own credentials: it is never allowed", addr)
	}
	near := localName(host)
	if literal {
		near = !dial.Public(addr)
	}
	if near && !private {
		return bad("url", "%s is a private address; set allow_private: true if this is meant", clip(host))
	}
	if u.Scheme == "http" && !near {
		return bad("url", "must begin with https://; plain http is only for private addresses with allow_private: true")
	}
	return nil
}

// plainHost reports whether host is a DNS name. A name whose last label is a
// number is an address in disguise ("127.1", "0x7f000001", "2130706433") that
// some resolvers understand.
func plainHost(host string) bool {
	if len(host) > 253 {
		return false
	}
	labels := strings.Split(host, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		for _, r := range l {
			if !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
				return false
			}
		}
	}
	last := labels[len(labels)-1]
	_, dec := strconv.ParseUint(last, 0, 64)
	return dec != nil && strings.Trim(last, "0123456789") != "" && !strings.HasPrefix(last, "0x")
}

// localName reports whether a name cannot be a public one: localhost, a single
// label, or a suffix that RFC 6761, RFC 6762, RFC 8375 or ICANN keep private.
func localName(host string) bool {
	if !strings.Contains(host, ".") {
		return true
	}
	for _, suffix := range []string{".localhost", ".local", ".internal", ".home.arpa", ".test"} {
		if strings.HasSuffix(host, suffix) {
			return true
		}
	}
	return false
}
