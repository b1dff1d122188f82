package egress

import (
	"bufio"
	"bytes"
	"mime/multipart"
	"strings"
	"testing"
)

// FuzzForm holds the form reader to what the standard library reads of the
// same bytes: what is accepted means the same to both.
func FuzzForm(f *testing.F) {
	f.Add([]byte("--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\nContent-Type: text/plain\r\n\r\nfile\r\n--b--\r\n"), false)
	f.Add([]byte("--b--"), true)
	f.Fuzz(func(t *testing.T, b []byte, more bool) {
		got, err := parseForm(b, "b", more)
		if err != nil || more {
			return
		}
		std, err := multipart.NewReader(bytes.NewReader(b), "b").ReadForm(1 << 20)
		if err != nil {
			return // it takes a form without parts for a broken one
		}
		defer func() { _ = std.RemoveAll() }()
		fields, files := 0, 0
		for _, p := range got.fields {
			fields++
			if !bytesIn(std.Value[p.name], p.value) {
				t.Errorf("the field %q is %q here and %q there", p.name, p.value, std.Value[p.name])
			}
		}
		for name, list := range std.File {
			files += len(list)
			_ = name
		}
		if files > len(got.files) {
			t.Errorf("%d files here, %d there", len(got.files), files)
		}
	})
}

func bytesIn(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

func FuzzPairs(f *testing.F) {
	f.Add("a=1&b=%20&c")
	f.Fuzz(func(t *testing.T, raw string) {
		list, err := pairs(raw, errArgument)
		if err != nil {
			return
		}
		for _, p := range list {
			if p.name == "" || strings.ContainsRune(p.value, 0) {
				t.Errorf("%q has the parameter %q=%q", raw, p.name, p.value)
			}
		}
	})
}

func FuzzGit(f *testing.F) {
	zero, one := strings.Repeat("0", 40), strings.Repeat("1", 40)
	line := zero + " " + one + " refs/heads/a\x00report-status push-options"
	f.Add(append(append(appendPkt(nil, []byte(line)), "00000000"...), "PACK\x00\x00\x00\x02\x00\x00\x00\x01"...))
	f.Add(appendPkt(nil, []byte("command=fetch")))
	f.Fuzz(func(t *testing.T, b []byte) {
		g := &gitRequest{}
		if _, err := g.readUpdates(b); err == nil {
			for _, u := range g.updates {
				if u.kind == "" || !plainRef(u.ref) {
					t.Errorf("the update %+v", u)
				}
			}
		}
		_, _ = readWants(b)
		_ = readPack(b, 20)
	})
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte{0x81, 0x81, 0, 0, 0, 0, 'a'}, true)
	f.Add([]byte{0x01, 0x01, 'a', 0x80, 0x01, 'b'}, false)
	f.Fuzz(func(t *testing.T, b []byte, masked bool) {
		m := &messages{r: bufio.NewReader(bytes.NewReader(b)), masked: masked, limit: 1 << 16}
		for {
			got, err := m.next()
			if err != nil {
				return
			}
			again := &messages{r: bufio.NewReader(bytes.NewReader(appendMessage(nil, got, masked))), masked: masked, limit: 1 << 16}
			if back, err := again.next(); err != nil || back.op != got.op || !bytes.Equal(back.payload, got.payload) {
				t.Errorf("%+v became %+v (%v)", got, back, err)
			}
		}
	})
}
