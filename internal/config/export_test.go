package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/config"
)

func TestExportTargets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(file, []byte("# of the collector\nX-Two: from file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(write(t, "export:\n  ocsf: {dir: /var/lake, rotate_after: 5m}\n  collectors:\n  - {name: second, url: 'https://b', headers: {Authorization: s3cr3t}, signals: logs}\n"),
		[]string{"COUNTERSIGN_EXPORT_OTLP_URL=https://a", "COUNTERSIGN_EXPORT_OTLP_HEADERS=Authorization=Bearer%20s3cr3t%2C1,X-One=1", "COUNTERSIGN_EXPORT_OTLP_PAYLOADS=true",
			"COUNTERSIGN_EXPORT_OTLP_HEADERS_FILE=" + file})
	if err != nil {
		t.Fatal(err)
	}
	otlp, ocsf := c.Export.OTLPTargets(), c.Export.OCSFTargets()
	if len(otlp) != 2 || otlp[0].Name != "otlp" || !otlp[0].Payloads || otlp[1].Name != "second" || otlp[1].Has("traces") || !otlp[0].Has("traces") || len(ocsf) != 1 || ocsf[0].Name != "ocsf" {
		t.Fatalf("%+v %+v", otlp, ocsf)
	}
	h, err := otlp[0].All()
	if err != nil || h["Authorization"] != "Bearer s3cr3t,1" || h["X-One"] != "1" || h["X-Two"] != "from file" {
		t.Errorf("%v %v", len(h), err)
	}
	if s := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(s, "s3cr3t") {
		t.Error("a header's value is printed")
	}
	for text, want := range map[string]string{
		"export: {otlp: {url: 'https://a', from: yesterday}}":    "beginning or now",
		"export: {otlp: {url: 'https://a', compression: zip}}":   "gzip or none",
		"export: {otlp: {url: 'https://a', signals: 'metrics'}}": "logs or traces",
		"export: {ocsf: {dir: /x, from: then}}":                  "beginning or now",
	} {
		if _, err := config.Load(write(t, text), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	_, err = config.Load("", []string{"COUNTERSIGN_EXPORT_OTLP_HEADERS=s3cr3t"})
	if err == nil || strings.Contains(err.Error(), "s3cr3t") {
		t.Error(err)
	}
}
