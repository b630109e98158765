//! The pages behind `/debug/` of the main listener, made here so that no edge has to.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::pages::{Content, shared};
use super::state::State;
use super::traffic::Form;
use crate::config::admin::Token;
use crate::edge::debug::{Page, Question};
use crate::limits;

/// Answers until every edge has ended.
pub(super) async fn serve(state: Arc<State>, mut questions: mpsc::Receiver<Question>) {
    let places = Arc::new(Semaphore::new(limits::DEBUG_QUESTIONS));
    while let Some(question) = questions.recv().await {
        // It is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let state = state.clone();
        tokio::spawn(async move {
            let page = answer(&state, &question).await;
            // Whoever asked may have gone.
            let _ = question.reply.send(page);
            drop(place);
        });
    }
}

async fn answer(state: &Arc<State>, question: &Question) -> Page {
    if let Some(key) = &question.key
        && !state.debug_key.load().as_ref().is_some_and(|file| is_key(file, key))
    {
        return Page::Denied;
    }
    let form = (!question.head_only).then_some(Form::Derper);
    let page = shared(state, &question.page, form, true).await;
    match page.content {
        Content::Whole(_) if page.status == 503 => Page::Busy,
        Content::Whole(body) => Page::Whole { status: page.status, content_type: page.content_type, body },
        Content::Stream(parts) => Page::Stream { content_type: page.content_type, parts },
    }
}

/// Read each time, as the reference does: the key can be changed while the relay runs.
fn is_key(file: &Path, given: &str) -> bool {
    fs::read(file).is_ok_and(|key| !key.trim_ascii().is_empty() && Token::new(key.trim_ascii()).is(given.as_bytes()))
}
