package gateway

import (
	"net"
	"net/http"
	"strings"
	"unicode/utf8"
)

// hopByHop are the fields that end at each intermediary (RFC 9110, section
// 7.6.1), and those that name the sender to a proxy.
var hopByHop = set("Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade")

// agentsOwn are the fields of a request that are the agent's credentials, or
// about its connection to us. Everything else passes.
var agentsOwn = set("Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "Cookie", "Cookie2",
	"Host", "Content-Length", "Expect", "Accept-Encoding", "Forwarded", "Via", "X-Real-Ip")

// upstreamsOwn are the fields of an answer that would bind the agent's client
// to the upstream as if it were us.
var upstreamsOwn = set("Set-Cookie", "Set-Cookie2", "Alt-Svc", "Strict-Transport-Security", "Clear-Site-Data", "Public-Key-Pins")

func set(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}

// cleanRequest returns the header that may go to the upstream. The values are
// shared with h, the map is not.
func cleanRequest(h http.Header) http.Header {
	listed := connectionListed(h)
	out := make(http.Header, len(h)+3)
	for name, values := range h {
		switch {
		case hopByHop[name], agentsOwn[name], listed[name], strings.HasPrefix(name, "X-Forwarded-"), strings.HasPrefix(name, "X-Countersign-"):
		case name == "Idempotency-Key", name == "X-Idempotency-Key":
			// http.Transport silently repeats requests whose header holds these
			// canonical names; in lower case they mean the same to the upstream
			// and nothing to the transport. A side effect is never retried silently.
			out[strings.ToLower(name)] = values
		default:
			out[name] = values
		}
	}
	if len(out["User-Agent"]) == 0 {
		out["User-Agent"] = []string{""} // none, rather than one that we make up
	}
	// Answers are observed as they pass, so they must not be compressed.
	out["Accept-Encoding"] = []string{"identity"}
	return out
}

// cleanAnswer removes from an answer's header what must not pass.
func cleanAnswer(h http.Header) {
	for name := range connectionListed(h) {
		delete(h, name)
	}
	for name := range h {
		if hopByHop[name] || upstreamsOwn[name] {
			delete(h, name)
		}
	}
}

func connectionListed(h http.Header) map[string]bool {
	values := h["Connection"]
	if len(values) == 0 {
		return nil
	}
	listed := map[string]bool{}
	for _, v := range values {
		for name := range strings.SplitSeq(v, ",") {
			listed[http.CanonicalHeaderKey(strings.TrimSpace(name))] = true
		}
	}
	return listed
}

// host returns the address of a remote without its port.
func host(remote string) string {
	if h, _, err := net.SplitHostPort(remote); err == nil {
		return h
	}
	return clip(remote, 100)
}

// clip shortens s to at most n bytes, at a character's border.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
