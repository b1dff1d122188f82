package oauth

import (
	"crypto/sha256"
	"encoding/base64"
	"html/template"
)

// style is the one style sheet; pages allow it by its hash and nothing else.
const style = `:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:3rem auto;padding:0 1rem}h1{font-size:1.3rem}
label{display:block;margin:.8rem 0 .2rem}input,select,button{font:inherit;padding:.45rem .6rem;width:100%;box-sizing:border-box}
button{margin-top:.8rem;cursor:pointer}code{word-break:break-all}.problem{border-left:4px solid #c00;padding-left:.8rem}dt{font-weight:600;margin-top:.6rem}dd{margin:0}`

var styleHash = func() string {
	sum := sha256.Sum256([]byte(style))
	return base64.StdEncoding.EncodeToString(sum[:])
}()

var pages = template.Must(template.New("page").Funcs(template.FuncMap{"style": func() template.CSS { return template.CSS(style) }}).Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Countersign</title><style>{{style}}</style></head><body>
<h1>Countersign</h1>
{{if .Problem}}<p class="problem" role="alert">{{.Problem}}</p>{{end}}
{{if .SignIn}}
<p>Sign in to let <strong>{{.Plan.Client.Name}}</strong>{{with .Plan.Client.Host}} of <strong>{{.}}</strong>{{end}} act for you.</p>
{{if .Elsewhere}}<p><a href="/oauth2/elsewhere?request={{.Request}}">Sign in with your organisation's account</a>, or with a password of this server:</p>{{end}}
<form method="post" action="/oauth2/login">
<input type="hidden" name="request" value="{{.Request}}">
<label for="name">Name</label><input id="name" name="name" autocomplete="username" required autofocus>
<label for="password">Password</label><input id="password" name="password" type="password" autocomplete="current-password" required>
<button>Sign in</button>
</form>
{{else if .Person}}
<p>You are <strong>{{.Person}}</strong>. The program below asks to act on your behalf. What it does is recorded under your name, and bounded by
the grants and policies of the agent as which it acts.</p>
<dl>
<dt>Program</dt><dd>{{.Plan.Client.Name}} (it says so itself)</dd>
{{with .Plan.Client.Host}}<dt>Whose</dt><dd><strong>{{.}}</strong> (checked)</dd>{{end}}
<dt>Sends you back to</dt><dd><strong>{{.Target}}</strong></dd>
<dt>Wants to use</dt>{{range .Resources}}<dd><code>{{.}}</code></dd>{{end}}
<dt>May then make calls that</dt>{{range .Plan.Scope.Effects}}<dd>{{if eq . "read"}}read{{else if eq . "write"}}write (can be undone){{else}}<strong>cannot be undone</strong>{{end}}</dd>{{end}}
{{if .Plan.Scope.Tools}}<dt>Of these tools alone</dt>{{range .Plan.Scope.Tools}}<dd><code>{{.}}</code></dd>{{end}}{{end}}
</dl>
<form method="post" action="/oauth2/consent">
<input type="hidden" name="request" value="{{.Request}}"><input type="hidden" name="bound" value="{{.Bound}}">
{{if .Choices}}<label for="agent">It acts as the agent</label>
<select id="agent" name="agent">{{range .Choices}}<option value="{{.Name}}">{{.Name}} ({{.Stage}}){{with .Purpose}}: {{.}}{{end}}</option>{{end}}</select>
<button name="answer" value="allow">Allow</button>{{else}}
<p class="problem">You answer for no agent as which it could act. Ask an administrator to register the program for one
(<code>countersign agent client add</code>), or to make you owner of an agent.</p>{{end}}
<button name="answer" value="deny">Decline</button>
</form>
{{end}}
</body></html>
`))
