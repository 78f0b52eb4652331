//! Any history of a few files that share a few resources.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Life, Text, view};
use crate::core::content::SourceContent;

const FILES: [&str; 4] = ["a.yaml", "b.yaml", "c/d.yaml", "e.json"];
const NAMES: [&str; 3] = ["t", "u", "v"];

#[derive(Clone, Debug)]
enum File {
    Gone,
    Unreadable,
    Unreachable,
    Texts(Vec<Text>),
}

impl File {
    fn view(&self) -> Option<SourceContent> {
        match self {
            File::Gone => None,
            File::Unreadable => Some(SourceContent::Unreadable("no permission".to_owned())),
            File::Unreachable => Some(SourceContent::Unreachable),
            File::Texts(texts) => Some(view(texts)),
        }
    }
}

fn text() -> impl Strategy<Value = Text> {
    let name = prop::sample::select(&NAMES[..]);
    prop_oneof![
        6 => (name.clone(), 0..3_u32, 0..2_u32).prop_map(|(name, order, more)| Text::Tier(name, order, more)),
        2 => (name.clone(), 0..2_u32).prop_map(|(name, more)| Text::BadTier(name, more)),
        2 => (name.clone(), 0..2_u32).prop_map(|(name, more)| Text::BadPolicy(name, more)),
        1 => name.prop_map(Text::Guess),
        1 => Just(Text::Unreadable),
        1 => Just(Text::UnreadablePolicy),
        1 => Just(Text::Foreign("Deployment")),
    ]
}

fn file() -> impl Strategy<Value = File> {
    prop_oneof![
        2 => Just(File::Gone),
        1 => Just(File::Unreadable),
        1 => Just(File::Unreachable),
        8 => vec(text(), 0..4).prop_map(File::Texts),
    ]
}

/// Rounds of changes; the same file may change more than once in a round.
fn history() -> impl Strategy<Value = Vec<Vec<(usize, File)>>> {
    vec(vec((0..FILES.len(), file()), 1..4), 1..12)
}

/// Texts of resources that no other file has, all good.
fn plain_history() -> impl Strategy<Value = Vec<(usize, Option<(u32, bool)>)>> {
    vec((0..FILES.len(), prop::option::of((0..3_u32, any::<bool>()))), 1..16)
}

fn plain(file: usize, content: Option<(u32, bool)>) -> Option<SourceContent> {
    let names = [["a1", "a2"], ["b1", "b2"], ["c1", "c2"], ["d1", "d2"]];
    let (order, both) = content?;
    let names = names.get(file)?;
    Some(view(
        &names
            .iter()
            .take(1 + usize::from(both))
            .map(|name| Text::Tier(name, order, 0))
            .collect::<Vec<_>>(),
    ))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Equal files and equal last good versions give equal output, however one got there.
    #[test]
    fn a_restart_changes_nothing(history in history()) {
        let mut life = Life::begin(vec![]);
        let mut now = vec![File::Gone; FILES.len()];
        for round in history {
            for (index, file) in &round {
                now[*index] = file.clone();
            }
            life.update(round.iter().map(|(index, file)| (FILES[*index], file.view())).collect());
            let views = || now.iter().zip(FILES).filter_map(|(file, name)| Some((name, file.view()?)));
            let mut again = life.restart(views().collect());
            prop_assert_eq!(&again.in_force, &life.in_force);
            prop_assert_eq!(again.problems(), life.problems());
            let reversed = life.restart(views().collect::<Vec<_>>().into_iter().rev().collect());
            prop_assert_eq!(&reversed.in_force, &life.in_force);
        }
    }

    /// What is fresh does not depend on the order in which it is seen.
    #[test]
    fn a_first_sight_has_no_order(files in vec(file(), FILES.len()), order in Just(vec![0, 1, 2, 3]).prop_shuffle()) {
        let view = |index: usize| Some((FILES[index], files[index].view()?));
        let mut one = Life::begin((0..FILES.len()).filter_map(view).collect());
        let mut other = Life::begin(order.iter().filter_map(|index| view(*index)).collect());
        prop_assert_eq!(&one.in_force, &other.in_force);
        prop_assert_eq!(one.problems(), other.problems());
    }

    /// Changes of different files commute, and it does not matter how they are batched.
    #[test]
    fn events_have_no_order(history in plain_history(), seed in any::<u64>()) {
        let mut straight = Life::begin(vec![]);
        for (file, content) in &history {
            straight.update(vec![(FILES[*file], plain(*file, *content))]);
        }
        // Another order that keeps each file's own: take the next change of a file picked by the
        // seed.
        let mut queues: Vec<Vec<Option<(u32, bool)>>> = vec![Vec::new(); FILES.len()];
        for (file, content) in history.iter().rev() {
            queues[*file].push(*content);
        }
        let mut shuffled = Life::begin(vec![]);
        let mut batch = Vec::new();
        let mut random = seed;
        while queues.iter().any(|queue| !queue.is_empty()) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let file = (random >> 33) as usize % FILES.len();
            if let Some(content) = queues[file].pop() {
                batch.push((FILES[file], plain(file, content)));
            }
            if random >> 62 == 0 {
                shuffled.update(std::mem::take(&mut batch));
            }
        }
        shuffled.update(batch);
        prop_assert_eq!(&straight.in_force, &shuffled.in_force);
        prop_assert_eq!(straight.problems(), shuffled.problems());
    }
}
