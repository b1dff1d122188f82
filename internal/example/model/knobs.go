package model

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// knobs bend an answer for a test. The zero value is an ordinary answer.
type knobs struct {
	preset string
	size   int
	chunks int
	delay  time.Duration
	status int
	args   string
}

const (
	maxSize   = 64 << 20
	maxChunks = 1 << 20
	maxDelay  = time.Minute
)

// presets are the models for tests, as doc.go lists them.
var presets = map[string]knobs{
	"test-echo":     {},
	"test-size":     {size: 1024},
	"test-big":      {size: 1 << 20},
	"test-slow":     {size: 400, chunks: 20, delay: 100 * time.Millisecond},
	"test-endless":  {size: 64, delay: 10 * time.Millisecond},
	"test-hang":     {},
	"test-reset":    {size: 400, chunks: 10},
	"test-garbage":  {},
	"test-error":    {status: 500},
	"test-error200": {size: 80, chunks: 4},
	"test-tool":     {args: "{}"},
}

// parseKnobs reads a model name for tests. ok is false for an ordinary name; an
// unknown preset or a value out of range is an error, so that a typo in a test
// does not quietly test something else.
func parseKnobs(model string) (k knobs, ok bool, err error) {
	if !strings.HasPrefix(model, "test-") {
		return knobs{}, false, nil
	}
	name, query, _ := strings.Cut(model, "?")
	k, known := presets[name]
	if !known {
		return knobs{}, true, fmt.Errorf("there is no test model %q", name)
	}
	k.preset = name
	values, err := url.ParseQuery(query)
	if err != nil {
		return knobs{}, true, fmt.Errorf("test model %q: %w", name, err)
	}
	for key, vs := range values {
		if err := k.set(key, vs[0]); err != nil {
			return knobs{}, true, fmt.Errorf("test model %q: %w", name, err)
		}
	}
	return k, true, nil
}

func (k *knobs) set(key, value string) (err error) {
	switch key {
	case "size":
		k.size, err = within(key, value, maxSize)
	case "chunks":
		k.chunks, err = within(key, value, maxChunks)
	case "status":
		k.status, err = within(key, value, 599)
		if err == nil && k.status < 200 {
			err = fmt.Errorf("status=%s is not a final HTTP status", value)
		}
	case "delay":
		k.delay, err = time.ParseDuration(value)
		if err == nil && (k.delay < 0 || k.delay > maxDelay) {
			err = fmt.Errorf("delay=%s is out of range (at most %s)", value, maxDelay)
		}
	case "args":
		k.args = value
	default:
		err = fmt.Errorf("unknown setting %q", key)
	}
	return err
}

func within(key, value string, limit int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 || n > limit {
		return 0, fmt.Errorf("%s=%s is not a number from 0 to %d", key, value, limit)
	}
	return n, nil
}

// filler is deterministic text of exactly n bytes.
func filler(n int) string {
	const sentence = "The quick brown fox jumps over the lazy dog while the auditor counts. "
	return strings.Repeat(sentence, n/len(sentence)+1)[:n]
}

// pieces cuts text for streaming: into k.chunks equal pieces, or, when that is
// not set, into pieces of about the size real providers send. Pieces end on
// character borders.
func (k knobs) pieces(text string) []string {
	if text == "" {
		return nil
	}
	step := 24
	if k.chunks > 0 {
		step = max(1, (len(text)+k.chunks-1)/k.chunks)
	} else if len(text) > 1<<16 {
		step = 1024
	}
	var out []string
	for len(text) > 0 {
		n := min(step, len(text))
		for n < len(text) && text[n]&0xC0 == 0x80 {
			n++
		}
		out = append(out, text[:n])
		text = text[n:]
	}
	return out
}
