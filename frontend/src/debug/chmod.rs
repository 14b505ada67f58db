//! `xbuild debug chmod`: what `--chmod` makes of a mode.

use serde_json::{Value, json};

use super::{Answer, known_keys, text};
use crate::graph::pattern::chmod::{self, Node};

pub(super) fn answer(input: &Value) -> Answer {
    known_keys(input, &["spec", "mode", "dir"])?;
    let before = text(input, "mode")?;
    let before = u32::from_str_radix(before, 8).map_err(|_| format!("mode {before:?} is not octal"))?;
    let node = if input["dir"] == true { Node::Directory } else { Node::Other };
    let chmod = chmod::parse(text(input, "spec")?).map_err(|error| error.to_string())?;
    Ok(json!({ "mode": format!("{:04o}", chmod::apply(&chmod, before, node)) }))
}
