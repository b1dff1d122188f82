package egress

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"crypto/sha1" //nolint:gosec // git names objects by it
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"io"
	"strconv"
	"strings"
)

// Limits on what is read of a pack to learn which commits are in it.
const (
	maxInflated = 32 << 20 // bytes, all objects together
	maxCommit   = 1 << 20  // bytes of one
)

// The kinds of objects in a pack (gitformat-pack).
const (
	packCommit   = 1
	packOfsDelta = 6
	packRefDelta = 7
)

// history is the parents of commits, by their names.
type history map[string][]string

// leads reports whether old is among the ancestors of now. A commit's name is
// the hash of its content, its parents included, so what is shown here cannot
// be made up.
func (h history) leads(now, old string) bool {
	seen, todo := map[string]bool{now: true}, []string{now}
	for len(todo) > 0 {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, parent := range h[at] {
			if parent == old {
				return true
			}
			if !seen[parent] {
				seen[parent] = true
				todo = append(todo, parent)
			}
		}
	}
	return false
}

// readPack returns the commits in a pack, as far as its beginning b shows them.
// It never fails: what it cannot read shows nothing, and git checks packs
// itself.
func readPack(b []byte, nameBytes int) history {
	p := packReader{in: bufio.NewReader(bytes.NewReader(b)), nameBytes: nameBytes, commits: history{}, byOffset: map[int64][]byte{}, byName: map[string][]byte{}, budget: maxInflated}
	p.read()
	return p.commits
}

type packReader struct {
	in        *bufio.Reader
	at        int64
	nameBytes int
	commits   history
	byOffset  map[int64][]byte // content of commits, as bases
	byName    map[string][]byte
	budget    int64
}

// ReadByte implements io.ByteReader, so that inflating takes no byte too many.
func (p *packReader) ReadByte() (byte, error) {
	c, err := p.in.ReadByte()
	if err == nil {
		p.at++
	}
	return c, err
}

// Read implements io.Reader.
func (p *packReader) Read(b []byte) (int, error) {
	n, err := p.in.Read(b)
	p.at += int64(n)
	return n, err
}

func (p *packReader) read() {
	var head [12]byte
	if _, err := io.ReadFull(p, head[:]); err != nil || string(head[:4]) != "PACK" {
		return
	}
	if v := binary.BigEndian.Uint32(head[4:8]); v != 2 && v != 3 {
		return
	}
	for range binary.BigEndian.Uint32(head[8:]) {
		if !p.object() {
			return
		}
	}
}

// object reads one object; false if it cannot, or has read enough.
func (p *packReader) object() bool {
	start := p.at
	kind, size, ok := p.header()
	if !ok {
		return false
	}
	var base []byte
	switch kind {
	case packOfsDelta:
		back, ok := p.offset()
		if !ok {
			return false
		}
		base = p.byOffset[start-back]
	case packRefDelta:
		name := make([]byte, p.nameBytes)
		if _, err := io.ReadFull(p, name); err != nil {
			return false
		}
		base = p.byName[hex.EncodeToString(name)]
	}
	content, ok := p.inflate(size, kind == packCommit || base != nil)
	if !ok {
		return false
	}
	if base != nil {
		content = patch(base, content)
	}
	if content != nil {
		p.commit(start, content)
	}
	return true
}

func (p *packReader) header() (kind byte, size int64, ok bool) {
	c, err := p.ReadByte()
	if err != nil {
		return 0, 0, false
	}
	kind, size = c>>4&7, int64(c&15)
	for shift := 4; c&0x80 != 0; shift += 7 {
		if c, err = p.ReadByte(); err != nil || shift > 53 {
			return 0, 0, false
		}
		size |= int64(c&0x7f) << shift
	}
	return kind, size, true
}

func (p *packReader) offset() (int64, bool) {
	c, err := p.ReadByte()
	back := int64(c & 0x7f)
	for n := 0; err == nil && c&0x80 != 0; n++ {
		if c, err = p.ReadByte(); n > 7 {
			return 0, false
		}
		back = (back+1)<<7 | int64(c&0x7f)
	}
	return back, err == nil
}

// inflate reads an object's content, which it returns if it is to be kept.
func (p *packReader) inflate(size int64, keep bool) ([]byte, bool) {
	if p.budget -= size; p.budget < 0 {
		return nil, false
	}
	z, err := zlib.NewReader(p)
	if err != nil {
		return nil, false
	}
	if !keep || size > maxCommit {
		n, err := io.Copy(io.Discard, io.LimitReader(z, size+1))
		return nil, err == nil && n == size
	}
	content, err := io.ReadAll(io.LimitReader(z, size+1))
	return content, err == nil && int64(len(content)) == size
}

// commit notes the parents of a commit.
func (p *packReader) commit(start int64, content []byte) {
	h := hash.Hash(sha1.New()) //nolint:gosec // as above
	if p.nameBytes == sha256.Size {
		h = sha256.New()
	}
	h.Write([]byte("commit " + strconv.Itoa(len(content)) + "\x00"))
	h.Write(content)
	name := hex.EncodeToString(h.Sum(nil))
	p.byOffset[start], p.byName[name] = content, content
	parents := []string{}
	for i, line := range strings.Split(string(content), "\n") {
		parent, is := strings.CutPrefix(line, "parent ")
		if is && isName(parent) {
			parents = append(parents, parent)
		} else if i > 0 {
			break
		}
	}
	p.commits[name] = parents
}

// patch applies a delta (gitformat-pack); nil if it does not fit.
func patch(base, delta []byte) []byte {
	from, delta, ok1 := deltaSize(delta)
	to, delta, ok2 := deltaSize(delta)
	if !ok1 || !ok2 || from != len(base) || to > maxCommit {
		return nil
	}
	out := make([]byte, 0, to)
	for len(delta) > 0 {
		op := delta[0]
		delta = delta[1:]
		if op&0x80 == 0 {
			n := int(op)
			if n == 0 || n > len(delta) || len(out)+n > to {
				return nil
			}
			out, delta = append(out, delta[:n]...), delta[n:]
			continue
		}
		at, n := 0, 0
		for i := range 7 {
			if op>>i&1 == 0 {
				continue
			}
			if len(delta) == 0 {
				return nil
			}
			if i < 4 {
				at |= int(delta[0]) << (8 * i)
			} else {
				n |= int(delta[0]) << (8 * (i - 4))
			}
			delta = delta[1:]
		}
		if n == 0 {
			n = 0x10000
		}
		if at+n > len(base) || len(out)+n > to {
			return nil
		}
		out = append(out, base[at:at+n]...)
	}
	if len(out) != to {
		return nil
	}
	return out
}

func deltaSize(b []byte) (int, []byte, bool) {
	n := 0
	for i, c := range b {
		if i > 3 {
			break
		}
		n |= int(c&0x7f) << (7 * i)
		if c&0x80 == 0 {
			return n, b[i+1:], true
		}
	}
	return 0, nil, false
}

// isName reports whether s is the name of an object.
func isName(s string) bool {
	if len(s) != 2*sha1.Size && len(s) != 2*sha256.Size {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}
