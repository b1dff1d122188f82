package posture

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/policy"
)

// The part of CycloneDX 1.6 (ECMA-424) that the inventory needs.
type (
	bom struct {
		Format       string          `json:"bomFormat"`
		Spec         string          `json:"specVersion"`
		Serial       string          `json:"serialNumber"`
		Version      int             `json:"version"`
		Metadata     bomMetadata     `json:"metadata"`
		Components   []bomComponent  `json:"components"`
		Services     []bomService    `json:"services"`
		Dependencies []bomDependency `json:"dependencies"`
	}
	bomMetadata struct {
		Timestamp time.Time    `json:"timestamp"`
		Component bomComponent `json:"component"`
	}
	bomComponent struct {
		Type        string        `json:"type"`
		Ref         string        `json:"bom-ref"`
		Name        string        `json:"name"`
		Version     string        `json:"version,omitzero"`
		Description string        `json:"description,omitzero"`
		Properties  []bomProperty `json:"properties,omitzero"`
	}
	bomService struct {
		Ref         string        `json:"bom-ref"`
		Name        string        `json:"name"`
		Description string        `json:"description,omitzero"`
		Endpoints   []string      `json:"endpoints,omitzero"`
		Auth        bool          `json:"authenticated"`
		Boundary    bool          `json:"x-trust-boundary"`
		Properties  []bomProperty `json:"properties,omitzero"`
		Services    []bomService  `json:"services,omitzero"`
	}
	bomProperty struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	bomDependency struct {
		Ref       string   `json:"ref"`
		DependsOn []string `json:"dependsOn,omitzero"`
	}
)

func properties(pairs ...string) (out []bomProperty) {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			out = append(out, bomProperty{"countersign:" + pairs[i], pairs[i+1]})
		}
	}
	return out
}

// bom returns the inventory: agents, models as they answered, connections and
// their tools, and which agent may call which tool (without looking at
// conditions).
func (s *Service) bom(d *document) bom {
	b := bom{Format: "CycloneDX", Spec: "1.6", Serial: "urn:uuid:" + named("bom"+d.Exported.String()), Version: 1, Components: []bomComponent{}, Services: []bomService{}, Dependencies: []bomDependency{}}
	b.Metadata = bomMetadata{d.Exported, bomComponent{Type: "application", Ref: "countersign", Name: "Countersign", Version: d.Version}}
	for _, c := range s.o.Connections.Connections() {
		svc := bomService{Ref: "connection/" + c.Name, Name: c.Name, Description: c.Description, Auth: len(c.SecretNames()) > 0, Boundary: true, Properties: properties("kind", c.Kind, "dialect", c.Dialect, "owner", c.Owner)}
		if c.URL != "" {
			svc.Endpoints = []string{c.URL}
		}
		for _, t := range s.o.Connections.Tools(c.Name) {
			if !t.Protocol() {
				svc.Services = append(svc.Services, bomService{Ref: "tool/" + c.Name + "/" + t.Name, Name: t.Name, Auth: svc.Auth, Boundary: true,
					Properties: properties("effect", t.Effect, "status", t.Status, "definition-sha256", t.Digest, "accepted-by", t.PinnedBy)})
			}
		}
		b.Services = append(b.Services, svc)
	}
	for _, name := range slices.Sorted(maps.Keys(d.models)) {
		_, model, _ := strings.Cut(name, "/")
		b.Components = append(b.Components, bomComponent{Type: "machine-learning-model", Ref: "model/" + name, Name: model,
			Properties: properties("connection", strings.TrimSuffix(name, "/"+model), "last-seen", d.models[name].at.UTC().Format(time.RFC3339), "event", d.models[name].event)})
	}
	for _, a := range s.o.Identity.Agents() {
		if isGuest(a.Name) || !a.Retired.IsZero() {
			continue
		}
		ref := "agent/" + a.Name
		b.Components = append(b.Components, bomComponent{Type: "application", Ref: ref, Name: a.Name, Description: a.Purpose,
			Properties: properties("owner", a.Owner, "backup", a.Backup, "team", a.Team, "stage", a.Stage, "business-process", a.BusinessProcess)})
		b.Dependencies = append(b.Dependencies, bomDependency{ref, s.mayCall(a)})
	}
	return b
}

func (s *Service) mayCall(a identityAgent) (out []string) {
	who := policy.Agent{Name: a.Name, Team: a.Team, Stage: a.Stage, Owner: a.Owner, Labels: a.Labels}
	for _, c := range s.o.Connections.Connections() {
		for _, t := range s.o.Connections.Tools(c.Name) {
			if !t.Protocol() && t.Callable() && s.o.Policy.Reach(who, policy.Action{Connection: c.Name, Tool: t.Name, Effect: t.Effect, Kind: c.Kind}).Possible {
				out = append(out, "tool/"+c.Name+"/"+t.Name)
			}
		}
	}
	return out
}
