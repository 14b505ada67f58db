//! `xbuild debug giturl`: how a git reference is read.

use serde_json::{Value, json};

use super::{Answer, known_keys, text};
use crate::giturl;

pub(super) fn answer(input: &Value) -> Answer {
    known_keys(input, &["text"])?;
    let Some(git) = giturl::parse(text(input, "text")?).map_err(|error| error.to_string())? else {
        return Ok(json!({ "git": false }));
    };
    let mut output = json!({
        "git": true,
        "remote": git.remote,
        "ref": git.reference,
        "subdir": git.subdir,
        "checksum": git.checksum,
    });
    if let Some(keep) = git.keep_git_dir {
        output["keep_git_dir"] = json!(keep);
    }
    if let Some(submodules) = git.submodules {
        output["submodules"] = json!(submodules);
    }
    Ok(output)
}
