package client

import (
	"context"
	"net/http"
)

// The ways an Apply ends.
const (
	Planned = "planned" // asked only what would happen
	Refused = "refused" // there are problems, and nothing was changed
	Applied = "applied" // everything was changed that had to be
	Partly  = "partly"  // connections and what they need are there; the rest has problems
)

// Application is what Apply did or found.
type Application struct {
	Outcome  string    `json:"outcome"`
	Changes  []Change  `json:"changes"`
	Warnings []string  `json:"warnings"`
	Problems []Problem `json:"problems"`
}

// Change is what applying one document does.
type Change struct {
	ID   string      `json:"id"` // kind and name
	Op   string      `json:"op"` // create, update, delete, none
	Kind string      `json:"kind"`
	Name string      `json:"name"`
	File string      `json:"file"`
	Line int         `json:"line,omitempty"`
	Diff []FieldDiff `json:"diff"`
}

// FieldDiff is one field that changes.
type FieldDiff struct {
	Field string `json:"field"`
	Old   string `json:"old"`
	New   string `json:"new"`
}

// Apply makes what there is follow files. secrets are the values of the
// secrets among them, by name. With dryRun nothing is changed.
func (c *Client) Apply(ctx context.Context, files []NamedText, secrets map[string]string, dryRun bool) (Application, error) {
	in := struct {
		Files   []NamedText       `json:"files"`
		Secrets map[string]string `json:"secrets,omitempty"`
		DryRun  bool              `json:"dry_run,omitempty"`
	}{files, secrets, dryRun}
	return send[Application](ctx, c, http.MethodPost, v1+"/apply", in)
}

// Export returns everything as files, without secrets' values.
func (c *Client) Export(ctx context.Context) ([]NamedText, error) {
	out, err := get[struct {
		Files []NamedText `json:"files"`
	}](ctx, c, v1+"/export", nil)
	return out.Files, err
}
