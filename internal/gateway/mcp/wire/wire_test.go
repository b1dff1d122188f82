package wire_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/countersign/countersign/internal/gateway/mcp/wire"
)

func TestScanReadsWhatPolicyNeeds(t *testing.T) {
	m, err := wire.Scan([]byte(` {"jsonrpc":"2.0","id": 7 ,"method":"tools\/call","x":[1,{"a":"]"}],"params":{"name":"pay\u005finvoice","arguments":{"n":12345678901234567890,"s":"a\"}"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if m.Kind != wire.Request || m.Method != "tools/call" || m.Name != "pay_invoice" || m.Version != wire.Modern {
		t.Errorf("got %+v", m)
	}
	if got := string(m.Arguments.Of(m.Raw)); got != `{"n":12345678901234567890,"s":"a\"}"}` {
		t.Errorf("arguments %s", got)
	}
	if got := string(m.ID.Of(m.Raw)); got != "7" {
		t.Errorf("id %q", got)
	}
}

func TestScanRefuses(t *testing.T) {
	deep := strings.Repeat("[", wire.MaxDepth) + strings.Repeat("]", wire.MaxDepth)
	for name, c := range map[string]struct {
		body string
		code int
	}{
		"empty":                  {``, wire.CodeParse},
		"garbage":                {`hello`, wire.CodeParse},
		"batch":                  {`[{"jsonrpc":"2.0","method":"ping","id":1}]`, wire.CodeInvalid},
		"duplicate name":         {`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe_read","name":"delete_all"}}`, wire.CodeParse},
		"escaped duplicate":      {`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe_read","na\u006de":"delete_all"}}`, wire.CodeParse},
		"duplicate in arguments": {`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":{"y":1,"y":2}}}}`, wire.CodeParse},
		"invalid UTF-8":          {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\xff\"}", wire.CodeParse},
		"second document":        {`{"jsonrpc":"2.0","id":1,"method":"ping"}{"jsonrpc":"2.0"}`, wire.CodeParse},
		"deep":                   {`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":` + deep + `}}`, wire.CodeParse},
		"Method":                 {`{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}`, wire.CodeInvalid},
		"Name":                   {`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}`, wire.CodeParams},
		"folded argument":        {`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"amount":1,"Amount":2}}}`, wire.CodeParams},
		"folded with kelvin":     {`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"key":1,"\u212Aey":2}}}`, wire.CodeParams},
		"no version":             {`{"id":1,"method":"ping"}`, wire.CodeInvalid},
		"id null":                {`{"jsonrpc":"2.0","id":null,"method":"ping"}`, wire.CodeInvalid},
		"id bool":                {`{"jsonrpc":"2.0","id":true,"method":"ping"}`, wire.CodeInvalid},
		"id object":              {`{"jsonrpc":"2.0","id":{"a":1},"method":"ping"}`, wire.CodeInvalid},
		"id array":               {`{"jsonrpc":"2.0","id":[1],"method":"ping"}`, wire.CodeInvalid},
		"huge id":                {`{"jsonrpc":"2.0","id":"` + strings.Repeat("x", wire.MaxID) + `","method":"ping"}`, wire.CodeInvalid},
		"method number":          {`{"jsonrpc":"2.0","id":1,"method":5}`, wire.CodeInvalid},
		"both":                   {`{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}`, wire.CodeInvalid},
		"neither":                {`{"jsonrpc":"2.0","id":1}`, wire.CodeInvalid},
		"params array":           {`{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}`, wire.CodeParams},
		"name number":            {`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":3}}`, wire.CodeParams},
		"arguments array":        {`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":[]}}`, wire.CodeParams},
	} {
		_, err := wire.Scan([]byte(c.body))
		var e *wire.Error
		if !errors.As(err, &e) || e.Code != c.code {
			t.Errorf("%s: got %v, want code %d", name, err, c.code)
		}
	}
}

func TestIDsSurvive(t *testing.T) {
	for _, id := range []string{`1`, `-1`, `1.50`, `1e400`, `12345678901234567890`, `"a"`, `"\u0041\n"`, `""`} {
		m, err := wire.Scan([]byte(`{"jsonrpc":"2.0","id":` + id + `,"method":"ping"}`))
		if err != nil || string(m.ID.Of(m.Raw)) != id {
			t.Errorf("id %s: %s, %v", id, m.ID.Of(m.Raw), err)
		}
	}
}

func TestKeepAndSetTouchNothingElse(t *testing.T) {
	b := []byte(`{"a": 1.10, "tools": [ {"name":"x","big":12345678901234567890} , {"name":"y"},{"name" : "z"} ],"cacheScope":"public"}`)
	at := wire.Find(b, wire.Whole(b), "tools")
	items := wire.Items(b, at)
	keep, changed := wire.Keep(b, at, items, func(i int) bool { return i != 1 })
	if !changed {
		t.Fatal("nothing removed")
	}
	got := string(wire.Splice(b, wire.Set(b, wire.Whole(b), "cacheScope", []byte(`"private"`)), keep))
	if want := `{"a": 1.10, "tools": [{"name":"x","big":12345678901234567890},{"name" : "z"}],"cacheScope":"private"}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := string(wire.Splice([]byte(`{}`), wire.Set([]byte(`{}`), wire.Span{Start: 0, End: 2}, "a", []byte(`1`)))); got != `{"a":1}` {
		t.Errorf("insert: %s", got)
	}
}

func TestEventsSurviveEveryLineEnding(t *testing.T) {
	stream := ": hi\n\ndata: a\ndata: b\nid: 7\n\nevent: x\r\ndata:c\r\n\r\ndata: d\r\rdata: cut off"
	for name, r := range map[string]io.Reader{"whole": strings.NewReader(stream), "bytewise": iotest.OneByteReader(strings.NewReader(stream))} {
		sse, raw := wire.NewReader(r, 1<<20), ""
		var data []string
		for {
			e, err := sse.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(name, err)
			}
			raw += string(e.Raw)
			data = append(data, string(e.Data))
		}
		if strings.Join(data, "|") != "|a\nb|c|d" {
			t.Errorf("%s: data %q", name, data)
		}
		if !strings.HasPrefix(stream, raw) || len(stream)-len(raw) != len("data: cut off") {
			t.Errorf("%s: raw bytes lost: %q", name, raw)
		}
	}
}

func TestAnEventTooLargeEndsTheStream(t *testing.T) {
	if _, err := wire.NewReader(strings.NewReader("data: "+strings.Repeat("x", 9000)+"\n\n"), 5000).Next(); !errors.Is(err, wire.ErrEvent) {
		t.Errorf("got %v", err)
	}
}

func TestReplacingData(t *testing.T) {
	e, err := wire.NewReader(strings.NewReader("id: 1\nevent: message\ndata: a\ndata: b\nretry: 5\n\n"), 1000).Next()
	if err != nil {
		t.Fatal(err)
	}
	if got := string(e.With([]byte(`{"x":1}`))); got != "id: 1\nevent: message\ndata: {\"x\":1}\nretry: 5\n\n" {
		t.Errorf("got %q", got)
	}
}

const schema = `{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"n":{"type":"integer","x-mcp-header":"N"},"o":{"properties":{"deep":{"type":"boolean","x-mcp-header":"Deep"}}}}}`

func TestHeadersMustAgreeWithTheBody(t *testing.T) {
	modern := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"region":"Zürich","n":5,"o":{"deep":true}},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`
	good := map[string]string{"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "t", "Mcp-Param-Region": "=?base64?WsO8cmljaA==?=", "Mcp-Param-N": "5.0", "Mcp-Param-Deep": "true", "Mcp-Param-Unknown": "passes"}
	for name, c := range map[string]struct {
		body   string
		change map[string]string
		code   int
	}{
		"agree":              {modern, nil, 0},
		"method":             {modern, map[string]string{"Mcp-Method": "ping"}, wire.CodeMismatch},
		"no method":          {modern, map[string]string{"Mcp-Method": ""}, wire.CodeMismatch},
		"name":               {modern, map[string]string{"Mcp-Name": "safe"}, wire.CodeMismatch},
		"no name":            {modern, map[string]string{"Mcp-Name": ""}, wire.CodeMismatch},
		"version":            {modern, map[string]string{"Mcp-Protocol-Version": "2026-07-29"}, wire.CodeMismatch},
		"no version":         {modern, map[string]string{"Mcp-Protocol-Version": ""}, wire.CodeMismatch},
		"param":              {modern, map[string]string{"Mcp-Param-Region": "Bern"}, wire.CodeMismatch},
		"param missing":      {modern, map[string]string{"Mcp-Param-N": ""}, wire.CodeMismatch},
		"param bad base64":   {modern, map[string]string{"Mcp-Param-Region": "=?base64?***?="}, wire.CodeMismatch},
		"param deep":         {modern, map[string]string{"Mcp-Param-Deep": "false"}, wire.CodeMismatch},
		"name in base64":     {modern, map[string]string{"Mcp-Name": "=?base64?dA==?="}, 0},
		"no meta":            {`{"jsonrpc":"2.0","id":1,"method":"ping"}`, map[string]string{"Mcp-Method": "ping"}, wire.CodeParams},
		"legacy silent":      {`{"jsonrpc":"2.0","id":1,"method":"ping"}`, map[string]string{"Mcp-Protocol-Version": "2025-11-25", "Mcp-Method": "", "Mcp-Name": ""}, 0},
		"legacy but lying":   {`{"jsonrpc":"2.0","id":1,"method":"ping"}`, map[string]string{"Mcp-Protocol-Version": "", "Mcp-Method": "tools/call", "Mcp-Name": ""}, wire.CodeMismatch},
		"param without args": {`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`, nil, wire.CodeMismatch},
	} {
		m, err := wire.Scan([]byte(c.body))
		if err != nil {
			t.Fatal(name, err)
		}
		h := http.Header{}
		for k, v := range good {
			h.Set(k, v)
		}
		for k, v := range c.change {
			if h.Set(k, v); v == "" {
				h.Del(k)
			}
		}
		if err = wire.CheckHeaders(h, m); err == nil {
			err = wire.CheckParams(h, m, []byte(schema))
		}
		var e *wire.Error
		if errors.As(err, &e); (e == nil && c.code != 0) || (e != nil && e.Code != c.code) {
			t.Errorf("%s: got %v, want code %d", name, err, c.code)
		}
	}
}

func TestEncodeIsUndoneByDecode(t *testing.T) {
	for _, s := range []string{"", "a b", " a", "ü", "a\nb", "=?base64?eA==?=", "x-1"} {
		if got, ok := wire.Decode(wire.Encode(s)); !ok || got != s {
			t.Errorf("%q: %q %v", s, got, ok)
		}
	}
}
