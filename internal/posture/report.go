package posture

import (
	"bytes"
	_ "embed"
	"html/template"
	"strings"
	"time"
)

//go:embed report.html
var reportText string

var reportPage = template.Must(template.New("report").Funcs(template.FuncMap{
	"at":    func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") },
	"class": func(r Result) string { return strings.ToLower(strings.ReplaceAll(string(r), "_", "-")) },
}).Parse(reportText))

// reportRow is a result as it counts when it is exported.
type reportRow struct {
	Stored
	Counts Result
	Why    string
}

// report returns the document for people, as one page without scripts that can
// be printed.
func (d *document) report() ([]byte, error) {
	var rows []reportRow
	for _, e := range d.Evidence {
		r, why := e.At(d.Exported)
		rows = append(rows, reportRow{e, r, why})
	}
	counts := map[string]Counted{}
	for _, f := range d.Frameworks {
		c := Counted{ID: f.ID, Results: map[Result]int{}}
		for _, q := range f.Requirements {
			if !q.Withdrawn {
				c.Requirements++
				c.Results[q.Result]++
			}
		}
		counts[f.ID] = c
	}
	var out bytes.Buffer
	err := reportPage.Execute(&out, map[string]any{"Doc": d, "Rows": rows, "Counts": counts, "Results": Results})
	return out.Bytes(), err
}
