package egress

import (
	"bytes"
	"errors"
	"strconv"
)

// errPkt refuses bytes that are no pkt-lines.
var errPkt = errors.New("not pkt-lines")

// The lines that carry nothing (gitprotocol-common, gitprotocol-v2).
const (
	pktData = iota
	pktFlush
	pktDelim
	pktEnd
)

// pkt is one line of git's protocol.
type pkt struct {
	kind int
	data []byte // without the line end
}

// nextPkt reads the first line of b and returns what follows it.
func nextPkt(b []byte) (pkt, []byte, error) {
	if len(b) < 4 {
		return pkt{}, nil, errPkt
	}
	for _, c := range b[:4] {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F') {
			return pkt{}, nil, errPkt
		}
	}
	n, err := strconv.ParseUint(string(b[:4]), 16, 16)
	switch {
	case err != nil, n == 3, int(n) > len(b):
		return pkt{}, nil, errPkt
	case n == 0:
		return pkt{kind: pktFlush}, b[4:], nil
	case n == 1:
		return pkt{kind: pktDelim}, b[4:], nil
	case n == 2:
		return pkt{kind: pktEnd}, b[4:], nil
	}
	return pkt{data: bytes.TrimSuffix(b[4:n], []byte("\n"))}, b[n:], nil
}

// appendPkt appends a line.
func appendPkt(b, data []byte) []byte {
	const hex = "0123456789abcdef"
	n := len(data) + 4
	b = append(b, hex[n>>12&15], hex[n>>8&15], hex[n>>4&15], hex[n&15])
	return append(b, data...)
}
