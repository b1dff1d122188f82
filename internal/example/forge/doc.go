// Package forge is the code host of the example business: git over HTTP on a
// real repository (served by git's own http-backend), pull requests and
// deployments beside it.
//
//	/git/shop.git     the repository, smart protocol
//	/api/pulls        pull requests: GET lists, POST opens
//	/api/deployments  deployments: GET lists, POST deploys a ref to an environment
//
// It checks its caller's token and knows nothing of agents or policies: whoever
// holds the token may rewrite history and deploy to production. One commit
// message carries an instruction for whoever reads the history.
//
// It needs git on the machine; without it [New] returns [ErrNoGit].
//
// Who may import it: internal/example, the command line, and tests.
package forge
