package secrets_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json/v2"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/internal/secrets"
)

type holder struct {
	Name   string
	Public secrets.Value
	hidden secrets.Value
	point  *secrets.Value
	list   []secrets.Value
}

type public struct{ V secrets.Value }

func TestAValuePrintsRedactedWhateverPrintsIt(t *testing.T) {
	v := secrets.NewValue([]byte(plain))
	h := holder{"n", v, v, &v, []secrets.Value{v}}
	out := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%08.3f", "%!", "%c", "%U"} {
		out["value "+verb] = fmt.Sprintf(verb, v)
		out["pointer "+verb] = fmt.Sprintf(verb, &v)
		out["holder "+verb] = fmt.Sprintf(verb, h)
		out["holder pointer "+verb] = fmt.Sprintf(verb, &h)
		out["map "+verb] = fmt.Sprintf(verb, map[string]any{"v": v, "h": h})
	}
	out["error"] = fmt.Errorf("failed with %v: %w", v, errors.New(v.String())).Error()
	var text, asJSON bytes.Buffer
	slog.New(slog.NewTextHandler(&text, nil)).Info("x", "v", v, "h", h, "any", []any{v}, slog.Group("g", "v", &v))
	slog.New(slog.NewJSONHandler(&asJSON, nil)).Info("x", "v", v, "h", h, "any", []any{v}, slog.Group("g", "v", &v))
	out["slog text"], out["slog JSON"] = text.String(), asJSON.String()
	for name, marshal := range map[string]func(any) ([]byte, error){
		"json": func(v any) ([]byte, error) { return json.Marshal(v) }, "yaml": yaml.Marshal, "xml": xml.Marshal,
		"gob": func(v any) ([]byte, error) {
			var b bytes.Buffer
			err := gob.NewEncoder(&b).Encode(v)
			return b.Bytes(), err
		},
	} {
		b, err := marshal(public{v})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		out[name] = string(b)
	}
	hexed := fmt.Sprintf("%x", plain)
	bytesShown := strings.Trim(fmt.Sprint([]byte(plain)), "[]")
	for how, s := range out {
		if strings.Contains(s, plain) || strings.Contains(strings.ToLower(s), hexed) || strings.Contains(s, bytesShown) || strings.Contains(s, plain[:8]) {
			t.Errorf("%s shows it: %s", how, s)
		}
	}
	if fmt.Sprint(v) != secrets.Redacted || out["json"] != `{"V":"[redacted]"}` {
		t.Errorf("printed as %q and %s", fmt.Sprint(v), out["json"])
	}
}

func TestValuesAreCopiedAndWiped(t *testing.T) {
	b := []byte(plain)
	v := secrets.NewValue(b)
	clear(b)
	c := v.Clone()
	if string(v.Expose()) != plain || !v.Equal(c) {
		t.Fatal("the value is not a copy")
	}
	under := v.Expose()
	v.Wipe()
	if !bytes.Equal(under, make([]byte, len(plain))) || !v.IsZero() || string(c.Expose()) != plain {
		t.Error("Wipe left something, or took too much")
	}
	var zero secrets.Value
	zero.Wipe()
	if zero.Clone().Len() != 0 || zero.Expose() != nil || zero.String() != secrets.Redacted || zero.Equal(c) {
		t.Error("the zero value")
	}
}
