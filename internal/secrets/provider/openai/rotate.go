package openai

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/provider/wire"
	"github.com/countersign/countersign/internal/secrets/rotation"
)

// Rotator makes a service account per version in a project. Settings: project,
// url (https://api.openai.com/v1), allow_private; the engine's admin is a
// secret with an Admin API key.
type Rotator struct{}

const api = "https://api.openai.com/v1"

var projectForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,100}$`)

// Check implements rotation.Rotator.
func (Rotator) Check(spec secrets.Spec, s map[string]string) error {
	for k := range s {
		if k != "project" && k != "url" && k != "allow_private" {
			return rotation.ErrSettings.Say("rotation: %.40q is not a setting of openai; it has project, url, admin, every, overlap", k)
		}
	}
	switch {
	case !projectForm.MatchString(s["project"]):
		return rotation.ErrSettings.Say("rotation: project: must be the project's ID")
	case spec.Rotation["admin"] == "":
		return rotation.ErrSettings.Say("rotation: admin: name the secret of an Admin API key")
	}
	return wire.Allow(s).Check(base(s))
}

func base(s map[string]string) string {
	if s["url"] == "" {
		return api
	}
	return strings.TrimRight(s["url"], "/")
}

type account struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	APIKey struct {
		Value string `json:"value"`
	} `json:"api_key"`
}

// Create implements rotation.Rotator. The account's name holds the rotation's
// token: one that an earlier attempt made, whose key nobody holds, is deleted.
func (r Rotator) Create(ctx context.Context, w rotation.Work) (secrets.Value, string, error) {
	name := "countersign-" + w.Secret.Name + "-" + w.Token
	if err := r.each(ctx, w, func(a account) error {
		if a.Name != name {
			return nil
		}
		return r.remove(ctx, w, a.ID)
	}); err != nil {
		return secrets.Value{}, "", err
	}
	a, err := r.ask(ctx, w, http.MethodPost, "", map[string]string{"name": name})
	if err == nil {
		err = a.Good()
	}
	var made account
	if err == nil {
		err = a.Decode(&made)
	}
	if err != nil {
		return secrets.Value{}, "", err
	}
	if made.ID == "" || made.APIKey.Value == "" {
		return secrets.Value{}, "", wire.ErrAnswer
	}
	return secrets.NewValue([]byte(made.APIKey.Value)), made.ID, nil
}

// Set implements rotation.Rotator: the key is good when it was made.
func (Rotator) Set(context.Context, rotation.Work) error { return nil }

// Test implements rotation.Rotator.
func (Rotator) Test(ctx context.Context, w rotation.Work) error {
	header := http.Header{"Authorization": {"Bearer " + string(w.Pending.Value.Expose())}}
	a, err := wire.Allow(w.Settings).JSON(ctx, http.MethodGet, base(w.Settings)+"/models", header, nil)
	if err != nil {
		return err
	}
	return a.Good()
}

// Retire implements rotation.Rotator.
func (r Rotator) Retire(ctx context.Context, w rotation.Work, ref string) error {
	if ref == "" { // it was put by hand: we do not know what it is called
		return rotation.ErrUnnamed
	}
	return r.remove(ctx, w, ref)
}

func (r Rotator) remove(ctx context.Context, w rotation.Work, id string) error {
	a, err := r.ask(ctx, w, http.MethodDelete, "/"+url.PathEscape(id), nil)
	if err != nil || a.Status == http.StatusNotFound {
		return err
	}
	return a.Good()
}

// each calls fn for every service account of the project.
func (r Rotator) each(ctx context.Context, w rotation.Work, fn func(account) error) error {
	after := ""
	for range 100 { // pages
		a, err := r.ask(ctx, w, http.MethodGet, "?limit=100&after="+url.QueryEscape(after), nil)
		if err == nil {
			err = a.Good()
		}
		var page struct {
			Data    []account `json:"data"`
			HasMore bool      `json:"has_more"`
			LastID  string    `json:"last_id"`
		}
		if err == nil {
			err = a.Decode(&page)
		}
		if err != nil {
			return err
		}
		for _, one := range page.Data {
			if err := fn(one); err != nil {
				return err
			}
		}
		if !page.HasMore || page.LastID == "" || page.LastID == after {
			return nil
		}
		after = page.LastID
	}
	return wire.ErrAnswer.Say("the project has more service accounts than can be looked through")
}

func (Rotator) ask(ctx context.Context, w rotation.Work, method, rest string, in any) (wire.Answer, error) {
	header := http.Header{"Authorization": {"Bearer " + string(w.Admin.Expose())}}
	return wire.Allow(w.Settings).JSON(ctx, method, base(w.Settings)+"/organization/projects/"+w.Settings["project"]+"/service_accounts"+rest, header, in)
}
