package webhook

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/provider/wire"
	"github.com/countersign/countersign/internal/secrets/rotation"
)

// Rotator makes a request for each step that has one. Settings, for STEP in
// create, set, test and retire: STEP.url, STEP.method (POST), STEP.body (JSON,
// sent as application/json); auth ("bearer", the default, or the name of a
// header), with the admin's secret; for test, test.auth ("pending": the new
// value itself is presented; the default) or "admin"; create.value and
// create.ref (JSON pointers into create's answer); allow_private.
//
// In URLs and bodies {{token}}, {{secret}}, {{pending}}, {{current}} and
// {{ref}} stand for themselves, escaped. Secrets may stand in bodies only.
// Without create.url a random value is made. A step without a URL does nothing.
// On retire a 404 means that it is gone.
type Rotator struct{}

var steps = []string{"create", "set", "test", "retire"}

var hole = regexp.MustCompile(`\{\{([a-z]*)\}\}`)

// Check implements rotation.Rotator.
func (Rotator) Check(_ secrets.Spec, s map[string]string) error {
	known := map[string]bool{"auth": true, "test.auth": true, "create.value": true, "create.ref": true, "allow_private": true}
	for _, step := range steps {
		for _, k := range []string{"url", "method", "body"} {
			known[step+"."+k] = true
		}
	}
	for k, v := range s {
		if !known[k] {
			return rotation.ErrSettings.Say("rotation: %.40q is not a setting of http", k)
		}
		if strings.HasSuffix(k, "auth") && hole.MatchString(v) {
			return rotation.ErrSettings.Say("rotation: %s: nothing may be put into it", k)
		}
		for _, m := range hole.FindAllStringSubmatch(v, -1) {
			secret := m[1] == "pending" || m[1] == "current"
			if m[1] != "token" && m[1] != "secret" && m[1] != "ref" && !(secret && strings.HasSuffix(k, ".body")) {
				return rotation.ErrSettings.Say("rotation: %s: {{%s}} may not stand there", k, m[1])
			}
		}
	}
	if s["set.url"] == "" && s["create.url"] == "" {
		return rotation.ErrSettings.Say("rotation: set.url or create.url is missing")
	}
	if (s["create.url"] == "") != (s["create.value"] == "") {
		return rotation.ErrSettings.Say("rotation: create.url and create.value belong together: the value is taken from the answer")
	}
	for _, step := range steps {
		if err := checkStep(s, step); err != nil {
			return err
		}
	}
	return nil
}

func checkStep(s map[string]string, step string) error {
	to := s[step+".url"]
	if to == "" {
		return nil
	}
	if err := wire.Allow(s).Check(hole.ReplaceAllString(to, "x")); err != nil {
		return err
	}
	if u, err := url.Parse(to); err != nil || strings.Contains(u.Host, "{") {
		return rotation.ErrSettings.Say("rotation: %s.url: nothing may be put into its host", step)
	}
	if body := s[step+".body"]; body != "" && !jsontext.Value(hole.ReplaceAllString(body, "x")).IsValid() {
		return rotation.ErrSettings.Say("rotation: %s.body: must be JSON, with {{names}} inside strings", step)
	}
	return nil
}

// Create implements rotation.Rotator.
func (r Rotator) Create(ctx context.Context, w rotation.Work) (secrets.Value, string, error) {
	if w.Settings["create.url"] == "" {
		return secrets.NewValue([]byte(rotation.Random())), "", nil
	}
	a, err := r.ask(ctx, w, "create", "", w.Admin)
	if err != nil {
		return secrets.Value{}, "", err
	}
	value, err := find(a, w.Settings["create.value"])
	if err != nil || value == "" {
		return secrets.Value{}, "", wire.ErrAnswer.Say("the provider's answer has no text at %s", w.Settings["create.value"])
	}
	ref := ""
	if at := w.Settings["create.ref"]; at != "" {
		if ref, err = find(a, at); err != nil {
			return secrets.Value{}, "", wire.ErrAnswer.Say("the provider's answer has no text at %s", at)
		}
	}
	return secrets.NewValue([]byte(value)), ref, nil
}

// Set implements rotation.Rotator.
func (r Rotator) Set(ctx context.Context, w rotation.Work) error {
	_, err := r.ask(ctx, w, "set", w.Pending.Ref, w.Admin)
	return err
}

// Test implements rotation.Rotator.
func (r Rotator) Test(ctx context.Context, w rotation.Work) error {
	as := w.Pending.Value
	if w.Settings["test.auth"] == "admin" {
		as = w.Admin
	}
	_, err := r.ask(ctx, w, "test", w.Pending.Ref, as)
	return err
}

// Retire implements rotation.Rotator.
func (r Rotator) Retire(ctx context.Context, w rotation.Work, ref string) error {
	_, err := r.ask(ctx, w, "retire", ref, w.Admin)
	return err
}

func (Rotator) ask(ctx context.Context, w rotation.Work, step, ref string, as secrets.Value) (wire.Answer, error) {
	s := w.Settings
	to := s[step+".url"]
	if to == "" {
		return wire.Answer{}, nil
	}
	values := map[string]string{"token": w.Token, "secret": w.Secret.Name, "ref": ref, "pending": string(w.Pending.Value.Expose()), "current": string(w.Current.Value.Expose())}
	fill := func(text string, escape func(string) string) string {
		return hole.ReplaceAllStringFunc(text, func(m string) string { return escape(values[m[2:len(m)-2]]) })
	}
	method := strings.ToUpper(s[step+".method"])
	if method == "" {
		method = http.MethodPost
	}
	header := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}}
	if !as.IsZero() {
		name, prefix := s["auth"], ""
		if name == "" || name == "bearer" {
			name, prefix = "Authorization", "Bearer "
		}
		header.Set(name, prefix+string(as.Expose()))
	}
	a, err := wire.Allow(s).Do(ctx, method, fill(to, url.PathEscape), header, []byte(fill(s[step+".body"], inString)))
	if err != nil {
		return a, err
	}
	if step == "retire" && (a.Status == http.StatusNotFound || a.Status == http.StatusGone) {
		return a, nil
	}
	return a, a.Good()
}

// inString escapes text for the inside of a JSON string.
func inString(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		return ""
	}
	return string(b[1 : len(b)-1])
}

// find returns the text at a JSON pointer.
func find(a wire.Answer, pointer string) (string, error) {
	var doc any
	if err := a.Decode(&doc); err != nil {
		return "", err
	}
	for part := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		m, ok := doc.(map[string]any)
		if !ok {
			return "", wire.ErrAnswer
		}
		doc = m[strings.NewReplacer("~1", "/", "~0", "~").Replace(part)]
	}
	text, ok := doc.(string)
	if !ok {
		return "", wire.ErrAnswer
	}
	return text, nil
}
