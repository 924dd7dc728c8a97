//! How does a file look with switched edits in it?

use std::ops::Range;

use crate::find::{Edit, SWITCH};

/// Puts the edits into a file, each under its switch. Returns the text, and where in it each edit is.
pub fn write(source: &str, edits: &[(u32, &Edit)]) -> (String, Vec<(u32, Range<usize>)>) {
    let mut text = String::new();
    let mut places = Vec::new();
    let mut open: Vec<(u32, &Edit, usize)> = Vec::new();
    let mut done = 0;
    let mut next = 0;
    loop {
        let closes = open.last().map(|(_, edit, _)| edit.at.end);
        let opens = edits.get(next).map(|(_, edit)| edit.at.start);
        match (closes, opens) {
            // An edit ends before the next one starts, also at the same position. An empty one is closed at once.
            (Some(end), start) if start.is_none_or(|start| end <= start) => {
                text.push_str(&source[done..end]);
                done = end;
                if let Some((id, edit, begin)) = open.pop() {
                    text.push_str(&edit.after);
                    places.push((id, begin..text.len()));
                }
            }
            (_, Some(start)) => {
                text.push_str(&source[done..start]);
                done = start;
                let (id, edit) = edits[next];
                open.push((id, edit, text.len()));
                text.push_str(&edit.before.replace(SWITCH, &format!("crate::mutation::on({id})")));
                next += 1;
            }
            (None, None) => break,
            (Some(_), None) => unreachable!("the first arm takes an open edit where none follows"),
        }
    }
    text.push_str(&source[done..]);
    (text, places)
}
