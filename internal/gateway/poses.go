package gateway

import (
	"bytes"
	"encoding/json/jsontext"
	"strings"

	"github.com/countersign/countersign/internal/inspection"
)

// maxPosed is how much of an answer is looked at for what it poses as.
const maxPosed = 1 << 20

// posing are what a tool's answer has no business to hold, as a text of it or
// as a text within one: the listing of a tool, a message of the system.
var posing = []string{
	`"inputschema"`, `"input_schema"`, `"role":"system"`, `"role":"developer"`, "<system>", "<system-reminder>", "[system]", "[system message]", "<|im_start|>system",
}

// poses reports whether what a tool answers looks like something that only a
// model's client or a server's list says. That is telemetry, as whatever is found
// in texts: it is told, and stops nothing.
func poses(answer []byte) bool {
	if len(answer) > maxPosed {
		answer = answer[:maxPosed]
	}
	low := bytes.ToLower(answer)
	if !bytes.Contains(low, []byte("schema")) && !bytes.Contains(low, []byte("system")) && !bytes.Contains(low, []byte("developer")) && !bytes.Contains(low, []byte(`\u`)) {
		return false
	}
	d := jsontext.NewDecoder(bytes.NewReader(answer), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	for {
		t, err := d.ReadToken()
		if err != nil { // the end, or no JSON any more
			return false
		}
		if t.Kind() != '"' {
			continue
		}
		text := strings.ToLower(t.String())
		if text == "inputschema" || text == "input_schema" {
			return true
		}
		if !strings.Contains(text, "schema") && !strings.Contains(text, "system") && !strings.Contains(text, "developer") {
			continue
		}
		plain := strings.Join(strings.Fields(text), "")
		for _, p := range posing {
			if strings.Contains(plain, strings.ReplaceAll(p, " ", "")) {
				return true
			}
		}
	}
}

// posed notes what a tool's answer poses as.
func (g *Gateway) posed(call *Call, answer []byte) {
	if call.inspected.plan == nil || !poses(answer) {
		return
	}
	g.saw(call, inspection.Injections)
	if g.o.Posed != nil {
		g.o.Posed(call.Connection.Name, call.Tool.Name, call.ID)
	}
}
