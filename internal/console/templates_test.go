package console

import (
	"bytes"
	"net/http/httptest"
	"reflect"
	"testing"
	"time"

	"github.com/countersign/countersign/client"
)

// samples are what each page's function returns. They are filled by their
// types, so that a template which names a field that is no more fails here and
// not before a person.
func samples() map[string]any {
	return map[string]any{
		"now": &nowPage{}, "approvals": &inbox{listing: &listing[client.Approval]{}}, "approval": &approvalPage{}, "agents": &agentsPage{listing: &listing[agentRow]{}}, "agent": &agentPage{}, "issued": &issued{}, "runs": &runsPage{listing: &listing[client.RunSummary]{}}, "run": &runPage{},
		"events": &eventsPage{}, "event": &eventPage{}, "contents": &client.Entry{}, "connections": &connectionsPage{listing: &listing[client.Connection]{}}, "connection": &connectionPage{}, "budgets": &budgetsPage{listing: &listing[client.Budget]{}}, "budget": &budgetPage{}, "inspected": &[]choice{{Groups: []client.Group{{}}}}, "reached": &client.ConnectionReach{}, "tool": &toolPage{}, "grants": &listing[grantUsed]{},
		"policies": &listing[client.Policy]{}, "policy": &policyPage{}, "history": &historyPage{}, "locks": &locksPage{listing: &listing[client.Lock]{}}, "lock": &lockPage{}, "findings": &findingsPage{listing: &listing[client.Finding]{}}, "finding": &client.Finding{},
		"reviews": &reviewsPage{listing: &listing[client.Review]{}}, "review": &reviewPage{}, "incidents": &incidentsPage{listing: &listing[client.Incident]{}}, "newincident": &newIncidentPage{}, "incident": &incidentPage{}, "mutes": &listing[client.Mute]{}, "undos": &listing[client.Undo]{}, "undoplan": &undoPlanPage{}, "undo": &undoPage{}, "releases": &releasesPage{listing: &listing[client.Release]{}}, "agentreleases": &agentReleasesPage{}, "release": &releasePage{},
		"detection": &detectionPage{listing: &listing[ruleRow]{}}, "detectionrule": &detectionRulePage{}, "detections": &detectionsPage{listing: &listing[client.Detection]{}}, "detected": &client.Detection{}, "inventory": &inventoryPage{listing: &listing[client.InventoryEntry]{}}, "inventoryentry": &client.InventoryEntry{Aside: &client.InventoryAside{}, Acts: []client.InventoryAct{{}}}, "posture": &posturePage{listing: &listing[predicateRow]{}}, "framework": &frameworkPage{listing: &listing[client.Requirement]{}}, "requirement": &requirementPage{}, "predicate": &predicatePage{},
		"people": &peoplePage{listing: &listing[client.User]{}}, "user": &userPage{}, "settings": &settingsPage{}, "setup": &setupPage{}, "profile": &profilePage{listing: &listing[client.Token]{}}, "sign-in": &signIn{}, "again": &struct{}{}, "error": &client.Error{},
		"why": &struct {
			client.Explanation
			Event string
		}{},
	}
}

func TestTemplatesFitTheirData(t *testing.T) {
	c, err := New(Options{Key: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	for name, page := range c.templates {
		for _, full := range []bool{true, false} {
			sample, ok := samples()[name]
			if !ok {
				t.Errorf("templates/%s.html has no sample in this test", name)
				break
			}
			if full {
				fill(reflect.ValueOf(sample).Elem(), 0)
			}
			for _, state := range []string{"pending", "approved"} {
				if a, ok := sample.(*approvalPage); ok {
					a.State, a.Mine = state, true
				}
				v := &visit{Request: httptest.NewRequest("GET", "/x?q=a", nil), console: c, Me: client.Me{User: client.User{Name: "ada"}, May: []string{"write", "govern", "stop", "decide", "inspect", "own"}}}
				if err := page.ExecuteTemplate(&bytes.Buffer{}, "layout", model{v, reflect.ValueOf(sample).Elem().Interface(), v.nav(), "/x"}); err != nil {
					t.Errorf("full %v: %v", full, err)
				}
			}
		}
	}
}

func fill(v reflect.Value, depth int) {
	if v.Kind() == reflect.Pointer && !v.IsNil() { // a listing that a page embeds
		fill(v.Elem(), depth+1)
		return
	}
	if v.Kind() != reflect.Struct && !v.CanSet() || depth > 12 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if depth < 8 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), depth+1)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1e9, 0)))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), depth+1)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Pointer && depth > 5 {
			return // steps beneath steps
		}
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), depth+1)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		k, x := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(k, depth+1)
		fill(x, depth+1)
		v.SetMapIndex(k, x)
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64, reflect.Int32:
		v.SetInt(1)
	case reflect.Float64:
		v.SetFloat(1)
	}
}
