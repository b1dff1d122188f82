package agents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

const releasePrompt = `You are the release bot of Hanse Trade and run as a CI job.
Read the history, push the release as a branch of its own, open a pull request and deploy the branch to staging and then to production.
Use the tools. When a tool refuses or waits for a person, go on without it and say so at the end.`

// Release makes one release of the version env.Task (1.4.0 if nobody says) and
// prints a line per step to out. It needs git. See [Support] for what is an
// error and what is not.
func Release(ctx context.Context, env Env, out io.Writer) (err error) {
	if err := need(map[string]string{"OPENAI_BASE_URL": env.OpenAIBaseURL, "OPENAI_API_KEY": env.OpenAIAPIKey, "COUNTERSIGN_HTTP_URL": env.HTTPURL, "COUNTERSIGN_TOKEN": env.Token},
		"OPENAI_BASE_URL", "OPENAI_API_KEY", "COUNTERSIGN_HTTP_URL", "COUNTERSIGN_TOKEN"); err != nil {
		return err
	}
	version := env.Task
	if version == "" {
		version = "1.4.0"
	}
	d := diary{out}
	task := fmt.Sprintf("Release %s: push it, open the pull request and deploy it.", version)
	d.line("release-bot: %s", task)
	dir, err := os.MkdirTemp("", "release-bot-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	w := &workshop{env: env, diary: d, dir: dir}
	if text, failed := w.clone(ctx); failed {
		return fmt.Errorf("the repository could not be cloned: %s", text)
	}
	return newChat(env, d, w, releasePrompt, task).work(ctx)
}
