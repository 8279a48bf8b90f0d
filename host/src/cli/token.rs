//! `tidepool token`: who may use the admin plane, and for what.

use std::time::Duration;

use clap::Subcommand;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::client::{ANSWER_TIMEOUT, Call, ClientArgs, ask};
use super::deploy::actor;
use super::{CliError, output};
use crate::http::documents::{NewToken, Token, TokenList, TokenMade};
use crate::trust::token::Scope;

/// Make, list and revoke tokens for the admin plane.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Make a token, and print it: it is not to be had again
    Create {
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        name: String,
        /// What it may do: read, admin, deploy, deploy:REGION, deploy:*:OPERATION or
        /// deploy:REGION:OPERATION; may be given more than once
        #[arg(long = "scope", value_name = "SCOPE", required = true)]
        scopes: Vec<Scope>,
        /// How long it holds, for example 30d; without an end when left out
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        expires: Option<Duration>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// List all tokens; never what proves them
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Take a token back, at once
    Revoke {
        /// Its number, as `tidepool token list` has it
        id: String,
        #[command(flatten)]
        client: ClientArgs,
    },
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let call = |method, path: String, body: Vec<u8>| Call {
        method,
        path,
        headers: vec![actor()],
        body: body.into(),
        timeout: ANSWER_TIMEOUT,
    };
    match &args.command {
        Command::Create {
            name,
            scopes,
            expires,
            client,
        } => {
            let new = NewToken {
                name: name.clone(),
                scopes: scopes.iter().map(Scope::to_string).collect(),
                expires_in_seconds: expires.map(|time| time.as_secs()),
            };
            let body = serde_json::to_vec(&new);
            let body = body.map_err(|error| CliError::Failed(error.to_string()))?;
            let call = call(Method::POST, "/v1/tokens".to_owned(), body);
            // Alone on its line: it goes into a variable or a file.
            ask(client, call, |made: &TokenMade| {
                output::one_line(&made.token)
            })
        }
        Command::List { client } => {
            let call = call(Method::GET, "/v1/tokens".to_owned(), Vec::new());
            ask(client, call, |list: &TokenList| show(&list.tokens))
        }
        Command::Revoke { id, client } => {
            let id = utf8_percent_encode(id, NON_ALPHANUMERIC);
            let call = call(Method::DELETE, format!("/v1/tokens/{id}"), Vec::new());
            ask(client, call, |token: &Token| {
                let (id, name) = (output::one_line(&token.id), output::one_line(&token.name));
                format!("revoked {id} ({name})")
            })
        }
    }
}

fn show(tokens: &[Token]) -> String {
    let heads = ["ID", "NAME", "SCOPES", "MADE", "BY", "ENDS", "REVOKED"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    let time = |time: &Option<String>| time.as_deref().map_or("-".to_owned(), output::one_line);
    rows.extend(tokens.iter().map(|token| {
        vec![
            output::one_line(&token.id),
            output::one_line(&token.name),
            output::one_line(&token.scopes.join(",")),
            output::one_line(&token.created_at),
            output::one_line(&token.created_by),
            time(&token.expires_at),
            time(&token.revoked_at),
        ]
    }));
    output::table(&rows)
}
