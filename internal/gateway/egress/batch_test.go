package egress

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"
	"testing/iotest"
)

// TestBatch takes what has arrived in one step, and waits for nothing more.
func TestBatch(t *testing.T) {
	var three []byte
	for _, text := range []string{"a", "b", "c"} {
		three = appendMessage(three, message{opText, []byte(text)}, true)
	}
	long := appendMessage(nil, message{opText, bytes.Repeat([]byte("x"), 300)}, true)
	inPieces := append([]byte{0x01, 0x81, 0, 0, 0, 0, 'a'}, []byte{0x80, 0x81, 0, 0, 0, 0, 'b'}...)
	for name, c := range map[string]struct {
		wire []byte
		want []int // how many in each step
	}{
		"all":          {three, []int{3}},
		"cut off":      {append(three[:len(three):len(three)], 0x81, 0x85, 0, 0, 0, 0, 'd'), []int{3, 0}},
		"a long one":   {append(three[:len(three):len(three)], long...), []int{4}},
		"half of it":   {append(three[:len(three):len(three)], long[:200]...), []int{3, 0}},
		"in pieces":    {append(three[:len(three):len(three)], inPieces...), []int{3, 1}},
		"a close":      {append(appendMessage(nil, message{opClose, nil}, true), three...), []int{1, 3}},
		"many":         {bytes.Repeat(three, 30), []int{maxBatch, 90 - maxBatch}},
		"a wrong one":  {append(three[:len(three):len(three)], 0x83, 0x80, 0, 0, 0, 0), []int{3}},
		"nothing more": {three[:7], []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			m := &messages{r: bufio.NewReader(bytes.NewReader(c.wire)), masked: true, limit: 1 << 16}
			var got []int
			for {
				batch, err := m.batch()
				if err == nil || len(batch) > 0 || !errors.Is(err, io.EOF) {
					got = append(got, len(batch))
				}
				if err != nil {
					break
				}
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("steps of %v, want %v", got, c.want)
			}
		})
	}
}

// FuzzBatch reads the same messages in steps and one by one, however they arrive.
func FuzzBatch(f *testing.F) {
	f.Add(appendMessage(appendMessage(nil, message{opText, []byte("a")}, true), message{opPing, nil}, true), true, false)
	f.Add([]byte{0x81, 0xfe, 0, 1, 0, 0, 0, 0, 'a', 0x01}, true, true)
	f.Fuzz(func(t *testing.T, b []byte, masked, slow bool) {
		read := func(step bool) (all []message) {
			var r io.Reader = bytes.NewReader(b)
			if slow && step {
				r = iotest.OneByteReader(r)
			}
			m := &messages{r: bufio.NewReader(r), masked: masked, limit: 1 << 16}
			for {
				batch, err := []message(nil), error(nil)
				if step {
					batch, err = m.batch()
				} else {
					batch = make([]message, 1)
					if batch[0], err = m.next(); err != nil {
						batch = nil
					}
				}
				if all = append(all, batch...); err != nil {
					return all
				}
			}
		}
		if one, steps := read(false), read(true); !reflect.DeepEqual(one, steps) {
			t.Errorf("one by one %+v, in steps %+v", one, steps)
		}
	})
}
