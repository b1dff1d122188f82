package config

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"
)

// Export sends the log to the systems of others, continuously (docs/export.md).
type Export struct {
	OTLP ExportOTLP `yaml:"otlp"` // one collector
	OCSF ExportOCSF `yaml:"ocsf"` // one directory
	// More of them, each with a name. In the file only.
	Collectors  []ExportOTLP `yaml:"collectors"`
	Directories []ExportOCSF `yaml:"directories"`
}

// ExportOTLP is an OpenTelemetry collector. Without a URL there is none.
type ExportOTLP struct {
	Name        string        `yaml:"name"`         // in status and commands. Default otlp. Its position is kept under it
	URL         string        `yaml:"url"`          // https://collector.example:4318, without /v1/logs
	Protocol    string        `yaml:"protocol"`     // http/protobuf or grpc. Default http/protobuf
	Headers     Headers       `yaml:"headers"`      // sent with every request
	HeadersFile string        `yaml:"headers_file"` // more of them, a "Name: value" per line
	CA          string        `yaml:"ca"`           // PEM file of the certificates to trust. Default: the system's
	Insecure    bool          `yaml:"insecure"`     // allow http:// to another machine
	Compression string        `yaml:"compression"`  // gzip or none. Default gzip
	Signals     string        `yaml:"signals"`      // logs, traces or both: "logs,traces". Default both
	Timeout     time.Duration `yaml:"timeout"`      // of one request. Default 10s, at most 20s
	Payloads    bool          `yaml:"payloads"`     // send prompts, answers, arguments and results too, as they are stored
	From        string        `yaml:"from"`         // beginning or now: where a new target begins. Default beginning
}

// ExportOCSF is a directory of OCSF JSON Lines. Without a dir there is none.
type ExportOCSF struct {
	Name        string        `yaml:"name"`         // of the files, in status and commands. Default ocsf
	Dir         string        `yaml:"dir"`          // absolute path
	RotateBytes int64         `yaml:"rotate_bytes"` // a file is handed over at this size. Default 64 MiB
	RotateAfter time.Duration `yaml:"rotate_after"` // or this age. Default 1m
	Payloads    bool          `yaml:"payloads"`
	From        string        `yaml:"from"`
}

// Headers of requests. Their values are secrets: they are never printed. In the
// environment they are written as name=value,name=value, percent-encoded as in
// a URL's query where they hold a comma.
type Headers map[string]string

// String hides the values.
func (h Headers) String() string { return fmt.Sprintf("[%d secret headers]", len(h)) }

// GoString hides the values.
func (h Headers) GoString() string { return h.String() }

func parseHeaders(text string) (Headers, error) {
	h := Headers{}
	for pair := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
		value, err := url.PathUnescape(value)
		if !ok || name == "" || err != nil {
			return nil, errors.New("headers are written as name=value,name=value") // never shows them
		}
		h[strings.TrimSpace(name)] = value
	}
	return h, nil
}

// All returns the headers of the configuration and of its file.
func (o ExportOTLP) All() (map[string]string, error) {
	all := map[string]string{}
	for name, value := range o.Headers {
		all[name] = value
	}
	if o.HeadersFile == "" {
		return all, nil
	}
	b, err := os.ReadFile(o.HeadersFile)
	if err != nil {
		return nil, fmt.Errorf("export: headers_file: %w", err)
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("export: headers_file: line %d of %s is not Name: value", n, o.HeadersFile)
		}
		all[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return all, nil
}

// OTLPTargets returns every collector, named.
func (e Export) OTLPTargets() []ExportOTLP {
	var out []ExportOTLP
	if e.OTLP.URL != "" {
		or(&e.OTLP.Name, "otlp")
		out = append(out, e.OTLP)
	}
	return append(out, e.Collectors...)
}

// OCSFTargets returns every directory, named.
func (e Export) OCSFTargets() []ExportOCSF {
	var out []ExportOCSF
	if e.OCSF.Dir != "" {
		or(&e.OCSF.Name, "ocsf")
		out = append(out, e.OCSF)
	}
	return append(out, e.Directories...)
}

// validate reports what only configuration knows; the rest is checked where it
// is used.
func (e Export) validate() (errs []error) {
	from := func(name, from string) {
		if from != "" && from != "beginning" && from != "now" {
			errs = append(errs, fmt.Errorf("export %s: from: %q is not beginning or now", name, from))
		}
	}
	for _, o := range e.OTLPTargets() {
		from(o.Name, o.From)
		if o.Compression != "" && o.Compression != "gzip" && o.Compression != "none" {
			errs = append(errs, fmt.Errorf("export %s: compression: %q is not gzip or none", o.Name, o.Compression))
		}
		for s := range strings.SplitSeq(o.Signals, ",") {
			if s = strings.TrimSpace(s); o.Signals != "" && s != "logs" && s != "traces" {
				errs = append(errs, fmt.Errorf("export %s: signals: %q is not logs or traces", o.Name, s))
			}
		}
	}
	for _, o := range e.OCSFTargets() {
		from(o.Name, o.From)
	}
	return errs
}

// Has reports whether a signal (logs, traces) is to be sent.
func (o ExportOTLP) Has(signal string) bool {
	return o.Signals == "" || strings.Contains(","+strings.ReplaceAll(o.Signals, " ", "")+",", ","+signal+",")
}
