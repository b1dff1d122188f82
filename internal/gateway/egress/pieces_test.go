package egress_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
)

const pieceKey = "ghp_" + "q8Zk2Lw0Vn5Rt7Yb3Xc9Md1Fs4Gh6Jp0Ka2E" //nolint:gosec // made up

// A secret does not pass in pieces: cut at any byte of an answer, over the events of
// a stream, or over those of two texts that alternate.
func TestSecretsInPiecesDoNotPass(t *testing.T) {
	var pieces []string
	kind := "text/plain"
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		for _, p := range pieces {
			_, _ = io.WriteString(w, p)
			_ = http.NewResponseController(w).Flush()
		}
	}, petOperations)
	r.inspects(map[string]string{"secret": "redact"})
	for at := 1; at < len(pieceKey); at += 5 {
		pieces = []string{"the key is " + pieceKey[:at], pieceKey[at:] + ", keep it"}
		if a := r.ask("GET", "/pets", nil); a.status != 200 || strings.Contains(a.body, pieceKey[:12]) || !strings.HasSuffix(a.body, ", keep it") {
			t.Errorf("cut at %d: %d %s", at, a.status, a.body)
		}
	}
	kind, pieces = "text/event-stream", nil
	event := func(index int, text string) {
		pieces = append(pieces, fmt.Sprintf("data: {\"choices\":[{\"index\":%d,\"delta\":{\"content\":%q}}]}\n\n", index, text))
	}
	for i := 0; i < len(pieceKey); i += 3 {
		event(0, pieceKey[i:min(len(pieceKey), i+3)])
		event(1, "word ")
	}
	event(0, " and more")
	pieces = append(pieces, "data: [DONE]\n\n")
	a := r.ask("GET", "/pets", nil)
	joined := ""
	for line := range strings.Lines(a.body) {
		if _, rest, ok := strings.Cut(line, `"index":0,"delta":{"content":"`); ok {
			text, _, _ := strings.Cut(rest, `"`)
			joined += text
		}
	}
	if a.status != 200 || strings.Contains(joined, pieceKey[4:12]) || !strings.HasSuffix(joined, " and more") || strings.Count(a.body, "word ") != (len(pieceKey)+2)/3 {
		t.Errorf("%d %q\n%s", a.status, joined, a.body)
	}
	// In two fields of one document, each of which is one.
	kind, pieces = "application/json", []string{`{"a":"` + pieceKey + `","b":["` + pieceKey + `"]}`}
	if a := r.ask("GET", "/pets", nil); a.status != 200 || strings.Contains(a.body, pieceKey[:12]) || strings.Count(a.body, "[redacted:") != 2 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// A line of a MiB without a break and a MiB of binary pass as they are, in an answer
// and in an upload; what must not pass is found at the end of it; what is to be read
// whole is refused before it is.
func TestLinesWithoutEndAndBinary(t *testing.T) {
	line := bytes.Repeat([]byte("lorem ipsum dolor "), 1<<20/18)
	noise, random := make([]byte, 1<<20), rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	var body []byte
	kind := ""
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write(body)
	}, petOperations)
	for action, secret := range map[string]string{"note": pieceKey, "redact": "[redacted:github-token]"} {
		r.inspects(map[string]string{"secret": action})
		for _, kind = range []string{"text/plain", "application/octet-stream", "text/event-stream"} {
			if body = line; kind == "application/octet-stream" {
				body = noise
			}
			if a := r.ask("GET", "/pets", nil); a.status != 200 || a.body != string(body) {
				t.Errorf("%s, %s: %d, %d bytes", action, kind, a.status, len(a.body))
			}
			a := r.ask("PUT", "/raw/x", bytes.NewReader(body), "Content-Type", "application/octet-stream")
			if all := r.up.Requests(); a.status != 200 || !bytes.Equal(all[len(all)-1].Body, body) {
				t.Errorf("%s, an upload: %d %s", action, a.status, a.detail)
			}
		}
		kind, body = "text/plain", append(bytes.Clone(line), " "+pieceKey...)
		if a := r.ask("GET", "/pets", nil); a.status != 200 || a.body != string(line)+" "+secret {
			t.Errorf("%s: %d, %d bytes, at the end %q", action, a.status, len(a.body), a.body[max(0, len(a.body)-80):])
		}
	}
	n := len(r.up.Requests())
	if a := r.ask("POST", "/pets", bytes.NewReader([]byte(`{"name":"`+string(line)+`"}`)), "Content-Type", "application/json"); a.code != "body_too_large" {
		t.Errorf("JSON: %d %s", a.status, a.code)
	}
	if a := r.ask("POST", "/pets", bytes.NewReader(noise[:1<<10]), "Content-Type", "application/json"); a.code != "bad_body" {
		t.Errorf("binary as JSON: %d %s", a.status, a.code)
	}
	if len(r.up.Requests()) != n {
		t.Error("a refused request was sent")
	}
}
