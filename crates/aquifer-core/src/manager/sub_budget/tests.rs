//! Accounts and names by themselves. What managers make of them is tested in the testkit.

use super::charge::{Account, BYTES_MAX, COUNT_MAX, Charge, LEVELS_MAX};
use super::tree::SubBudgets;
use crate::manager::tags::TagNames;
use crate::statistics::Limits;
use crate::statistics::{TAGS_MAX, Tag};
use aquifer_backend::ErrorKind;
use std::sync::Arc;

fn account(parent: Option<&Arc<Account>>, limits: Limits) -> Arc<Account> {
    Arc::new(Account::new(parent.cloned(), "a".into(), Tag(1 | Tag::LIMITED), limits))
}

/// Charges an allocation that comes about; answers how deep the accounts lie whose soft limits it exceeds.
fn charge(account: &Account, bytes: u64) -> Result<Vec<usize>, usize> {
    let mut charge = Charge::new(account, bytes);
    charge.take().map_err(|refuser| refuser.depth)?;
    Ok(charge.keep().accounts().map(|account| account.depth).collect())
}

fn live(account: &Account) -> (u64, u64) {
    let usage = account.usage();
    (usage.live_bytes, usage.live_count)
}

fn peak(account: &Account) -> (u64, u64) {
    let usage = account.usage();
    (usage.peak_bytes, usage.peak_count)
}

#[test]
fn a_refusal_and_a_failure_leave_nothing_behind() {
    let outer = account(None, Limits::NONE.hard_bytes(100));
    let middle = account(Some(&outer), Limits::NONE);
    let inner = account(Some(&middle), Limits::NONE.hard_count(2));
    assert_eq!(charge(&inner, 70), Ok(vec![]));
    assert_eq!(charge(&inner, 31), Err(0), "the outermost refuses");
    drop(Charge::new(&inner, 30));
    let mut failing = Charge::new(&inner, 30);
    assert!(failing.take().is_ok());
    assert_eq!((live(&inner), live(&outer)), ((100, 2), (100, 2)));
    assert_eq!(inner.refuser(1).map(|refuser| refuser.depth), Some(2));
    drop(failing);
    assert_eq!(charge(&inner, 0), Ok(vec![]));
    assert_eq!(charge(&inner, 0), Err(2), "two are live");
    for level in [&inner, &middle, &outer] {
        assert_eq!((live(level), peak(level)), ((70, 2), (70, 2)), "what did not come about is no peak");
    }
    inner.refund(70);
    inner.refund(0);
    assert_eq!(charge(&middle, 100), Ok(vec![]));
    assert_eq!((live(&inner), live(&middle), peak(&outer)), ((0, 0), (100, 1), (100, 2)));
}

#[test]
fn one_word_holds_neither_more_bytes_nor_more_allocations_than_it_can() {
    let bytes = account(None, Limits::NONE);
    for too_many in [BYTES_MAX + 1, 1 << 60, u64::MAX] {
        assert_eq!(charge(&bytes, too_many), Err(0));
        assert!(bytes.too_small_for(too_many).is_some());
    }
    assert_eq!(charge(&bytes, BYTES_MAX), Ok(vec![]));
    assert_eq!((charge(&bytes, 1), charge(&bytes, 0)), (Err(0), Ok(vec![])));
    assert_eq!((live(&bytes), peak(&bytes)), ((BYTES_MAX, 2), (BYTES_MAX, 2)));
    let count = account(None, Limits::NONE.hard_count(u64::MAX));
    for _ in 0..COUNT_MAX {
        let mut charge = Charge::new(&count, 1);
        assert!(charge.take().is_ok());
        charge.keep();
    }
    assert_eq!((charge(&count, 0), live(&count)), (Err(0), (COUNT_MAX, COUNT_MAX)));
    assert_eq!(count.limits(), Limits::NONE, "u64::MAX is as none");
}

#[test]
fn a_soft_limit_is_told_when_it_is_newly_exceeded() {
    let outer = account(None, Limits::NONE.soft_count(1));
    let inner = account(Some(&outer), Limits::NONE.soft_bytes(100));
    assert_eq!(charge(&inner, 100), Ok(vec![]), "up to the limit is not beyond it");
    assert_eq!(charge(&inner, 1), Ok(vec![1, 0]), "the innermost first");
    assert_eq!(charge(&inner, 1), Ok(vec![]), "above it already");
    assert_eq!(
        (inner.soft_excess_bytes(), outer.soft_excess_bytes()),
        (Some(2), Some(0)),
        "by the count alone"
    );
    inner.refund(1);
    assert_eq!(charge(&inner, 1), Ok(vec![]), "never below");
    inner.refund(1);
    inner.refund(1);
    assert_eq!((inner.soft_excess_bytes(), outer.soft_excess_bytes()), (None, None));
    assert_eq!(charge(&inner, 5), Ok(vec![1, 0]));
    let counts = [&inner, &outer].map(|account| account.usage().soft_exceeded_count);
    assert_eq!(counts, [2, 2]);
    // One that does not come about has exceeded nothing.
    inner.refund(5);
    let mut failing = Charge::new(&inner, 5);
    assert!(failing.take().is_ok());
    drop(failing);
    assert_eq!(inner.usage().soft_exceeded_count, 2);
}

#[test]
fn limits_may_be_set_below_what_is_live() {
    let account = account(None, Limits::NONE);
    assert_eq!((charge(&account, 60), charge(&account, 40)), (Ok(vec![]), Ok(vec![])));
    assert!(account.set_limits(Limits::NONE.hard_bytes(50).soft_bytes(50).hard_count(9)));
    assert!(!account.set_limits(Limits::NONE.hard_bytes(50).soft_bytes(40).hard_count(9)), "not newly");
    assert_eq!(live(&account), (100, 2), "nothing is taken away");
    assert_eq!(charge(&account, 0), Err(0));
    account.refund(60);
    assert_eq!((charge(&account, 11), charge(&account, 10)), (Err(0), Ok(vec![0])));
    let usage = account.usage();
    assert_eq!((usage.peak_bytes, usage.soft_exceeded_count), (100, 2));
    assert_eq!(usage.limits, Limits::NONE.hard_bytes(50).soft_bytes(40).hard_count(9));
}

#[test]
fn what_can_never_fit_is_told_from_what_has_no_room_now() {
    let outer = account(None, Limits::NONE.hard_bytes(100));
    let inner = account(Some(&outer), Limits::NONE.hard_bytes(1000));
    assert!(inner.too_small_for(100).is_none());
    assert_eq!(inner.too_small_for(101).map(|account| account.depth), Some(0));
    assert!(!inner.set_limits(Limits::NONE.soft_count(0).hard_count(0)), "nothing is live");
    assert_eq!(inner.too_small_for(1).map(|account| account.depth), Some(1));
}

fn tree() -> (Arc<TagNames>, Arc<SubBudgets>) {
    let tags = Arc::new(TagNames::default());
    (Arc::clone(&tags), SubBudgets::new(tags))
}

#[test]
fn names_are_unique_among_siblings_and_share_one_space_with_tags() {
    let (tags, tree) = tree();
    let ordinary = tags.intern("weights").expect("few tags");
    let acme = tree.make(None, "acme", Limits::NONE).expect("a new name");
    let llama = tree.make(Some(&acme), "llama", Limits::NONE).expect("a new name");
    let same_name_elsewhere = tree.make(None, "llama", Limits::NONE).expect("a new name there");
    assert_eq!((acme.path.as_str(), llama.path.as_str()), ("acme", "acme/llama"));
    let kv = tree.tag(&llama, "kv").expect("a new name");
    assert_eq!(tree.tag(&llama, "kv").expect("an old name"), kv);
    assert_eq!((tags.name(kv).as_str(), kv.is_limited()), ("acme/llama/kv", true));
    assert_eq!(tags.intern("acme/llama/kv").expect("an old name"), kv);
    assert_eq!(tags.intern("acme/llama").expect("an old name"), llama.own_tag);
    assert_ne!(llama.own_tag, same_name_elsewhere.own_tag);
    let found = |path: &str| tree.find(path).map(|account| account.own_tag);
    assert_eq!(found("acme/llama"), Some(llama.own_tag));
    assert_eq!(found("llama"), Some(same_name_elsewhere.own_tag));
    assert_eq!((found("acme/lla"), found(""), found("untagged")), (None, None, None));
    let ordinary_path = tags.intern("acme/llama/other").expect("few tags");
    assert!(!ordinary_path.is_limited() && !ordinary.is_limited());
    let made = |parent, name| tree.make(parent, name, Limits::NONE).map(|_| ());
    let refusals = [
        made(None, ""),
        made(None, "a/b"),
        made(None, "acme"),
        made(None, "weights"),
        made(None, "untagged"),
        made(Some(&acme), "llama"),
        made(Some(&llama), "kv"),
        tree.tag(&acme, "llama").map(|_| ()),
        tree.tag(&llama, "other").map(|_| ()),
        tree.tag(&llama, "").map(|_| ()),
        tree.tag(&llama, "a/b").map(|_| ()),
        tree.make(None, "x", Limits::NONE.soft_bytes(2).hard_bytes(1)).map(|_| ()),
        tree.make(None, "x", Limits::NONE.soft_count(2).hard_count(1)).map(|_| ()),
    ];
    for refusal in refusals {
        assert_eq!(refusal.expect_err("a name that cannot be").kind(), ErrorKind::InvalidArgument);
    }
    let names: Vec<_> = tree.statistics().into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["acme", "acme/llama", "llama"]);
}

#[test]
fn there_are_so_many_levels_and_so_many_in_all() {
    let (tags, tree) = tree();
    let mut chain = vec![tree.make(None, "0", Limits::NONE).expect("a first")];
    for level in 1..LEVELS_MAX {
        let next = tree.make(chain.last(), &level.to_string(), Limits::NONE).expect("a few levels");
        chain.push(next);
    }
    let error = tree.make(chain.last(), "deeper", Limits::NONE).expect_err("one too deep");
    assert!(error.message().contains("8 levels"), "{error}");
    // It can still have tags.
    let tag = tree.tag(&chain[LEVELS_MAX - 1], "tag").expect("few tags");
    let innermost = tree.account(tag).expect("it is charged");
    assert_eq!(charge(innermost, 9), Ok(vec![]));
    assert!(chain.iter().all(|account| live(account) == (9, 1)));
    // "untagged" is one, and so is the tag.
    for index in LEVELS_MAX + 2..TAGS_MAX {
        tree.make(None, &format!("more {index}"), Limits::NONE).expect("there is room");
    }
    let error = tree.make(None, "last", Limits::NONE).expect_err("one too many");
    assert!(error.message().contains("one tag more than 1024"), "{error}");
    assert!(tree.tag(&chain[0], "last").is_err() && tags.intern("last").is_err());
    assert_eq!(tree.statistics().len(), TAGS_MAX - 2);
}

/// Eight threads charge and refund in three accounts of one, at random; nothing is ever above a limit, and the most that is seen, at
/// those moments at which an allocation is there, is the peak.
#[test]
fn threads_never_exceed_hard_limits_of_any_level() {
    const HARD: u64 = 1000;
    let outer = account(None, Limits::NONE.hard_bytes(HARD).hard_count(7));
    let inner: Vec<_> =
        [900, 500, 400].map(|hard| account(Some(&outer), Limits::NONE.hard_bytes(hard))).into();
    std::thread::scope(|scope| {
        for seed in 1..=8_u64 {
            let (outer, inner) = (&outer, &inner);
            scope.spawn(move || {
                let (mut random, mut held) = (seed, Vec::new());
                for _ in 0..20_000 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let (which, bytes) = ((random >> 60) as usize % 3, (random >> 33) % 300);
                    if random >> 32 & 1 == 0 && charge(&inner[which], bytes).is_ok() {
                        held.push((which, bytes));
                    } else if let Some((which, bytes)) = held.pop() {
                        inner[which].refund(bytes);
                    }
                    let (live_bytes, live_count) = live(outer);
                    assert!(live_bytes <= HARD && live_count <= 7, "{live_bytes} in {live_count}");
                }
                held.into_iter().for_each(|(which, bytes)| inner[which].refund(bytes));
            });
        }
    });
    let (peak_bytes, peak_count) = peak(&outer);
    assert!(
        (1..=HARD).contains(&peak_bytes) && (1..=7).contains(&peak_count),
        "{peak_bytes} in {peak_count}"
    );
    for (account, hard) in inner.iter().zip([900, 500, 400]) {
        assert!(live(account) == (0, 0) && peak(account).0 <= hard);
    }
    assert_eq!((live(&outer), charge(&outer, HARD)), ((0, 0), Ok(vec![])), "refunds are complete");
}
