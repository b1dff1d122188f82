package console

import (
	"fmt"
	"slices"
	"strings"

	"github.com/countersign/countersign/client"
)

var setupPages = []page{{"/setup", "setup", "Set up", "setup", (*Console).showSetup}}

var setupActions = []action{
	{"/setup/password", "setup", (*Console).setupPassword},
	{"/setup/passkey", "setup", (*Console).setupPasskey},
	{"/setup/agent", "setup", (*Console).setupAgent},
	{"/setup/connection", "setup", (*Console).setupConnection},
	{"/setup/key", "setup", (*Console).setupKey},
}

// setupPage leads from nothing to the first governed call. Each step is done
// when the API says so, whoever did it and wherever.
type setupPage struct {
	Agents      []client.Agent
	Connections []client.Connection
	Grants      int
	Keyed       bool
	First       *client.Event
	URL         string
	Agent       string
	Key         string // shown this once
	Step        int    // the first that is not done
	Passkeys    int    // of the person, who may go on without
}

// mostSnippets is for how many connections lines to copy are shown.
const mostSnippets = 3

// Snippets are what is changed in a program to use the first connections, with
// the key if it is shown.
func (d setupPage) Snippets() []string {
	key := d.Key
	if key == "" {
		key = "csk_…"
	}
	var out []string
	for _, c := range d.Connections[:min(mostSnippets, len(d.Connections))] {
		switch {
		case c.Kind == "llm" && c.Dialect == "anthropic":
			out = append(out, fmt.Sprintf("export ANTHROPIC_BASE_URL=%s/llm/%s ANTHROPIC_API_KEY=%s", d.URL, c.Name, key))
		case c.Kind == "llm":
			out = append(out, fmt.Sprintf("from openai import OpenAI\nclient = OpenAI(base_url=\"%s/llm/%s/v1\", api_key=\"%s\")", d.URL, c.Name, key))
		case c.Kind == "mcp":
			out = append(out, fmt.Sprintf("{\n  \"mcpServers\": {\n    \"%s\": {\n      \"type\": \"http\",\n      \"url\": \"%s/mcp/%s\",\n      \"headers\": { \"Authorization\": \"Bearer %s\" }\n    }\n  }\n}", c.Name, d.URL, c.Name, key))
		case c.Kind == "http":
			out = append(out, fmt.Sprintf("curl -H 'Authorization: Bearer %s' %s/http/%s/", key, d.URL, c.Name))
		}
	}
	return out
}

func (c *Console) showSetup(v *visit) (any, error) {
	d := setupPage{URL: c.url}
	var err error
	passkeys, err := v.API.Passkeys(v.ctx(), "")
	if err != nil {
		return nil, err
	}
	d.Passkeys = len(passkeys)
	if d.Agents, err = v.API.Agents(v.ctx()); err != nil {
		return nil, err
	}
	if d.Connections, err = v.API.Connections(v.ctx()); err != nil {
		return nil, err
	}
	grants, err := v.API.Grants(v.ctx(), "")
	if err != nil {
		return nil, err
	}
	d.Grants = len(grants)
	for _, a := range d.Agents {
		d.Keyed = d.Keyed || len(a.Keys) > 0
	}
	if len(d.Agents) > 0 {
		d.Agent = d.Agents[0].Name
	}
	if d.First, err = v.firstCall(d.Agents); err != nil {
		return nil, err
	}
	d.Keyed = d.Keyed || d.First != nil // it came with a credential
	for i, finished := range []bool{v.Me.Password, len(d.Agents) > 0, len(d.Connections) > 0 && d.Grants > 0, d.Keyed, d.First != nil} {
		if !finished {
			d.Step = i + 1
			break
		}
	}
	return d, nil
}

// firstCall is the newest call of an agent; the server's own, such as those that
// list a connection's tools, do not count. It looks at those who called last.
func (v *visit) firstCall(agents []client.Agent) (*client.Event, error) {
	const most = 20
	last := slices.SortedFunc(slices.Values(agents), func(a, b client.Agent) int { return b.LastCall.Compare(a.LastCall) })
	var names []string
	for _, a := range last[:min(len(last), most)] {
		names = append(names, a.Name)
	}
	if len(names) == 0 {
		return nil, nil
	}
	found, err := v.API.SearchLog(v.ctx(), "type:call.intent,call.denied,call.held,call.refused agent:"+strings.Join(names, ","), "", 1, false)
	if err != nil || len(found.Events) == 0 {
		return nil, err
	}
	return &found.Events[0], nil
}

// setupPassword sets the first password and signs in with it: the browser need
// keep the token of the first start no longer, and who has signed in may register
// a passkey.
func (c *Console) setupPassword(v *visit) (done, error) {
	d, err := c.setOwnPassword(v)
	if err != nil {
		return d, err
	}
	d.to = "/setup"
	session, err := c.api(v.Request, "").Login(v.ctx(), v.Me.Name, v.Form.Get("password"))
	if err == nil {
		d.session = session.Token
		d.said = "The password is set, and you are signed in with it."
	}
	return d, nil // who could not be signed in goes on with the token
}

func (c *Console) setupPasskey(v *visit) (done, error) {
	d, err := c.addPasskey(v)
	d.to = "/setup"
	return d, err
}

const setupReason = "guided set-up"

func (c *Console) setupAgent(v *visit) (done, error) {
	f := v.Form
	a, err := v.API.WithReason(setupReason).PutAgent(v.ctx(), f.Get("name"), client.AgentSpec{Owner: v.Me.Name, Stage: "development", Purpose: f.Get("purpose")})
	return done{to: "/setup", said: a.Name + " is registered, and you answer for it."}, err
}

// setupConnection registers a connection with its secret, and lets the agent
// use it for a month.
func (c *Console) setupConnection(v *visit) (done, error) {
	f, api := v.Form, v.API.WithReason(setupReason)
	spec := client.ConnectionSpec{Kind: f.Get("kind"), URL: f.Get("url"), Owner: v.Me.Name, AllowPrivate: f.Get("private") != ""}
	name, value := f.Get("name"), f.Get("value")
	switch f.Get("kind") {
	case "openai", "anthropic":
		spec.Kind, spec.Dialect = "llm", f.Get("kind")
	}
	if value != "" {
		spec.Secret, spec.Auth = name+"-key", "bearer"
		if spec.Dialect == "anthropic" {
			spec.Auth = "x-api-key"
		}
	}
	if _, err := api.PutConnection(v.ctx(), name, spec); err != nil {
		return done{}, err
	}
	v.Form.Del("value")
	if value != "" {
		if _, _, err := api.PutSecret(v.ctx(), spec.Secret, client.SecretSpec{Owner: v.Me.Name, Connection: name}, value); err != nil {
			return done{}, err
		}
	}
	g, err := api.PutGrant(v.ctx(), f.Get("agent")+"-"+name, client.GrantSpec{Agent: f.Get("agent"), Connection: name, Tools: []string{"*"}, Expires: v.Now().AddDate(0, 1, 0)})
	if err == nil && spec.Kind == "mcp" {
		_, err = api.RefreshConnection(v.ctx(), name) // whether it answers to the key is seen now
	}
	return done{to: "/setup", said: name + " is registered, and " + g.Agent + " may use it for a month."}, err
}

func (c *Console) setupKey(v *visit) (done, error) {
	k, err := v.API.WithReason(setupReason).IssueKey(v.ctx(), v.Form.Get("agent"), "30d")
	if err != nil {
		return done{}, err
	}
	data, err := c.showSetup(v)
	if err != nil {
		return done{}, err
	}
	if d, ok := data.(setupPage); ok {
		d.Key, d.Agent = k.Value, k.Agent
		data = d
	}
	return done{template: "setup", title: "Set up", data: data}, nil
}
