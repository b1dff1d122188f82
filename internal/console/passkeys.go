package console

import (
	"encoding/json/v2"
	"errors"
	"net/http"

	"github.com/countersign/countersign/client"
)

var passkeyActions = []action{
	{"/profile/passkeys", "profile", (*Console).addPasskey},
	{"/profile/passkeys/{passkey}/rename", "profile", (*Console).renamePasskey},
	{"/profile/passkeys/{passkey}/remove", "profile", (*Console).removePasskey},
	{"/people/{name}/passkeys/{passkey}/remove", "user", (*Console).removeOthersPasskey},
}

// questions are what scripts ask before they have a passkey sign.
var questions = []struct {
	path string
	ask  func(*visit) (any, error)
}{
	{"/profile/passkeys/challenge", func(v *visit) (any, error) { return v.API.StartPasskey(v.ctx()) }},
	{"/approvals/{id}/challenge", func(v *visit) (any, error) {
		return v.API.ApprovalChallenge(v.ctx(), v.Request.PathValue("id"), "approve")
	}},
}

// question answers a script of ours in JSON: what the API says, or the problem.
func (c *Console) question(ask func(*visit) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := c.enter(w, r)
		if v == nil {
			return
		}
		v.Form = r.PostForm
		status := http.StatusOK
		out, err := ask(v)
		if e, ok := errors.AsType[*client.Error](err); ok {
			status, out = e.Status, map[string]string{"problem": e.Detail}
		} else if err != nil {
			c.log.ErrorContext(r.Context(), "a question failed", "path", r.URL.Path, "error", err)
			status, out = http.StatusInternalServerError, map[string]string{"problem": "The server could not answer. Its own log says why."}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.MarshalWrite(w, out) // a browser that left needs no answer
	}
}

func (c *Console) addPasskey(v *visit) (done, error) {
	p, err := v.API.AddPasskey(v.ctx(), v.Form.Get("name"), v.Form.Get("passkey"))
	return done{to: "/profile#passkeys", said: "The passkey " + p.Name + " is registered."}, err
}

func (c *Console) renamePasskey(v *visit) (done, error) {
	p, err := v.API.RenamePasskey(v.ctx(), v.Request.PathValue("passkey"), v.Form.Get("name"))
	return done{to: "/profile#passkeys", said: "The passkey is called " + p.Name + "."}, err
}

const passkeyRemoved = "The passkey is removed and signs nothing any more."

func (c *Console) removePasskey(v *visit) (done, error) {
	return done{to: "/profile#passkeys", said: passkeyRemoved}, v.API.RemovePasskey(v.ctx(), v.Request.PathValue("passkey"))
}

func (c *Console) removeOthersPasskey(v *visit) (done, error) {
	return done{to: "/people/" + v.Request.PathValue("name"), said: passkeyRemoved}, v.reason().RemovePasskey(v.ctx(), v.Request.PathValue("passkey"))
}
