package reach

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits on what an upstream tells.
const (
	MostThings = 1000
	mostRights = 200
	mostText   = 256 // bytes of a name
	MaxAnswer  = 4 << 20
)

// Kinds of things.
const (
	Table      = "table"
	Index      = "index"
	Collection = "collection"
	Database   = "database"
	Tool       = "tool"
	Operation  = "operation"
	Model      = "model"
	Repository = "repository"
)

// Right is something that the identity may do.
type Right struct {
	Name string `json:"name"`
	From string `json:"from" enum:"upstream,credential,settings" doc:"who says so: the upstream just now; the credential itself, which nobody verified; the settings of the secret"`
	// Write says that it changes something, or goes around the upstream's rules.
	Write  bool `json:"write,omitempty" doc:"it changes something, or goes around the upstream's own rules"`
	Excess bool `json:"excess,omitempty" doc:"write, and the connection only reads"`
}

// Thing is one thing that the identity could reach.
type Thing struct {
	Kind   string   `json:"kind" enum:"table,index,collection,database,tool,operation,model,repository"`
	Name   string   `json:"name"`
	Count  *int64   `json:"count,omitempty" doc:"documents or rows in it that the credential can read; absent: not known"`
	About  bool     `json:"about,omitempty" doc:"the count is the engine's own estimate, or a least number"`
	Rights []string `json:"rights,omitempty" doc:"what the credential may do with it, in the upstream's words"`
	Write  bool     `json:"write,omitempty" doc:"the credential can change it"`
	Excess bool     `json:"excess,omitempty" doc:"write, and the connection only reads"`
	Status string   `json:"status,omitempty" doc:"of a tool or operation, what people said of it: pinned, new, drifted"`
	// Open says that agents can be let to it through the connection.
	Open bool `json:"open" doc:"the connection lets agents to it, as far as policy allows"`
	// Calls is nil where use of the thing is not counted.
	Calls  *int64    `json:"calls,omitempty" doc:"allowed calls of agents in the window; absent: use of it is not counted"`
	Last   time.Time `json:"last,omitzero" doc:"the last of them"`
	Agents []string  `json:"agents,omitempty" doc:"whose they are"`
}

// Told is what an upstream tells of the identity that a connection signs in with.
type Told struct {
	Identity string   `json:"identity,omitempty" doc:"who the upstream says it is"`
	Rights   []Right  `json:"rights"`
	Things   []Thing  `json:"things"`
	More     bool     `json:"more,omitempty" doc:"there are more than are listed"`
	Unknown  []string `json:"unknown" doc:"what cannot be known, and why"`
}

// Unknowable says that something cannot be known.
func (t *Told) Unknowable(why string) { t.Unknown = append(t.Unknown, why) }

// Add adds a thing, unless there are too many already.
func (t *Told) Add(x Thing) {
	if len(t.Things) >= MostThings {
		t.More = true
		return
	}
	t.Things = append(t.Things, x)
}

// Right adds a right.
func (t *Told) Right(r Right) {
	if len(t.Rights) >= mostRights {
		t.More = true
		return
	}
	t.Rights = append(t.Rights, r)
}

// plain makes foreign text short and valid, and cuts lists.
func (t *Told) plain(redact func([]byte) []byte) {
	text := func(s string) string {
		s = strings.ToValidUTF8(s, "\uFFFD")
		if len(s) > mostText {
			n := mostText
			for n > 0 && !utf8.RuneStart(s[n]) {
				n--
			}
			s = s[:n] + "…"
		}
		if redact != nil {
			s = string(redact([]byte(s)))
		}
		return s
	}
	t.Identity = text(t.Identity)
	t.Rights, t.More = cut(t.Rights, mostRights, t.More)
	t.Things, t.More = cut(t.Things, MostThings, t.More)
	for i := range t.Rights {
		t.Rights[i].Name = text(t.Rights[i].Name)
	}
	for i := range t.Things {
		x := &t.Things[i]
		x.Name = text(x.Name)
		x.Rights, t.More = cut(x.Rights, mostRights, t.More)
		for j := range x.Rights {
			x.Rights[j] = text(x.Rights[j])
		}
	}
}

func cut[T any](list []T, most int, more bool) ([]T, bool) {
	if len(list) <= most {
		return slices.Concat([]T{}, list), more
	}
	return list[:most:most], true
}
