//! Walks a listing page by page.

use crate::error::{Exit, Problem};
use std::{future::Future, num::NonZeroU64};
use tonic::Status;

/// The protocol's upper limit of a page.
const LARGEST_PAGE: u64 = 500;

/// How much of a listing is wanted.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct LimitArgs {
    /// List at most this many
    #[arg(long, value_name = "N", default_value = "100")]
    pub limit: NonZeroU64,
    /// List everything
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
}

impl LimitArgs {
    /// The greatest number of elements.
    pub fn limit(self) -> u64 {
        if self.all { u64::MAX } else { self.limit.get() }
    }
}

/// Fetches pages with `fetch(page_size, page_token)` and hands each to `show` until the end or the limit. Answers
/// whether it stopped at the limit with more to come.
///
/// # Errors
/// Those of `fetch` and `show`, and a server that gives the same page token twice.
pub async fn walk<T, F, A>(
    limit: LimitArgs,
    mut fetch: F,
    mut show: impl FnMut(&[T]) -> std::io::Result<()>,
) -> anyhow::Result<bool>
where
    F: FnMut(i32, String) -> A,
    A: Future<Output = Result<(Vec<T>, String), Status>>,
{
    let mut left = limit.limit();
    let page_size = i32::try_from(left.min(LARGEST_PAGE))?;
    let mut token = String::new();
    loop {
        let (mut items, next) = fetch(page_size, token.clone()).await?;
        let fits = usize::try_from(left).unwrap_or(usize::MAX);
        let cut = items.len() > fits;
        items.truncate(fits);
        show(&items)?;
        left = left.saturating_sub(items.len() as u64);
        if next.is_empty() || left == 0 {
            return Ok(cut || !next.is_empty());
        }
        if next == token {
            return Err(Problem::new(
                Exit::Failure,
                "the server gives the same page again and again",
                "The list is incomplete; look into the server's log.",
            )
            .into());
        }
        token = next;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn first(n: u64) -> LimitArgs {
        LimitArgs { limit: NonZeroU64::new(n).unwrap(), all: false }
    }

    /// Numbers up to `total` in pages of at most 3, with an empty page in the middle.
    async fn numbers(total: u64, limit: LimitArgs) -> (Vec<u64>, bool, Vec<i32>) {
        let (mut seen, mut sizes) = (Vec::new(), Vec::new());
        let truncated = walk(
            limit,
            |size, token| {
                sizes.push(size);
                async move {
                    if token == "hole" {
                        return Ok((vec![], "3".to_owned()));
                    }
                    let from: u64 = token.parse().unwrap_or(0);
                    let to = total.min(from + u64::try_from(size.min(3)).unwrap());
                    let next = match to {
                        3 if total > 3 => "hole".to_owned(),
                        to if to < total => to.to_string(),
                        _ => String::new(),
                    };
                    Ok(((from..to).collect(), next))
                }
            },
            |page| {
                seen.extend_from_slice(page);
                Ok(())
            },
        )
        .await
        .unwrap();
        (seen, truncated, sizes)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn stops_at_the_limit_or_at_the_end() {
        assert_eq!(numbers(8, LimitArgs { all: true, ..first(1) }).await.0, (0..8).collect::<Vec<_>>());
        assert_eq!(numbers(8, first(7)).await, ((0..7).collect(), true, vec![7; 4]));
        assert_eq!(numbers(8, first(8)).await, ((0..8).collect(), false, vec![8; 4]));
        assert_eq!(numbers(2, first(1000)).await, (vec![0, 1], false, vec![500]));
        assert_eq!(numbers(0, first(5)).await, (vec![], false, vec![5]));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_server_that_repeats_a_token_does_not_hold_us() {
        let fetch = |_, _| async { Ok((vec![1], "same".to_owned())) };
        assert!(walk(LimitArgs { all: true, ..first(1) }, fetch, |_| Ok(())).await.is_err());
    }
}
