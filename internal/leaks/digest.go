package leaks

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"strings"
	"sync"
)

type digest [sha256.Size]byte

func keyed(key, value []byte) (d digest) {
	mac := hmac.New(sha256.New, key)
	mac.Write(value)
	mac.Sum(d[:0])
	return d
}

// Digests knows upstream secrets by keyed digest, under a key of this process:
// what is in memory does not give a value away. It learns what the redactor
// learns (secrets.Matcher), and is safe for concurrent use.
type Digests struct {
	key   [32]byte
	mu    sync.RWMutex
	names map[digest]map[string]bool
}

// NewDigests returns an empty set.
func NewDigests() *Digests {
	d := &Digests{names: map[digest]map[string]bool{}}
	rand.Read(d.key[:]) // crypto/rand.Read never fails
	return d
}

// Add makes value a value of the secret called name.
func (d *Digests) Add(name string, value []byte) {
	value = bytes.TrimSpace(value)
	if len(value) < shortest {
		return
	}
	sum := keyed(d.key[:], value)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[sum] == nil {
		d.names[sum] = map[string]bool{}
	}
	d.names[sum][name] = true
}

// Remove forgets the secret called name.
func (d *Digests) Remove(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for sum, names := range d.names {
		if delete(names, name); len(names) == 0 {
			delete(d.names, sum)
		}
	}
}

func (d *Digests) of(value string) (names []string) {
	sum := keyed(d.key[:], []byte(value))
	d.mu.RLock()
	defer d.mu.RUnlock()
	for name := range d.names[sum] {
		names = append(names, name)
	}
	return names
}

// shortest is the length of the shortest value that is looked for, in bytes.
const shortest = 8

// maxCandidates bounds what is tried of one report.
const maxCandidates = 2000

// candidates returns what of a reported text could be a credential: the whole,
// and every word of it as shells, JSON, YAML and URLs separate them.
func candidates(text string) []string {
	seen := map[string]bool{}
	var out []string
	add := func(s string) {
		if s = strings.TrimSpace(s); len(s) >= shortest && !seen[s] && len(out) < maxCandidates {
			seen[s] = true
			out = append(out, s)
		}
	}
	add(text)
	for _, separators := range []string{" \t\r\n\"'`<>()[]{},;|", " \t\r\n\"'`<>()[]{},;|=:&?@"} {
		for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(separators, r) }) {
			add(strings.TrimRight(word, "."))
		}
	}
	return out
}
