//! The core's decisions: about one resource, and about the documents of a file that name none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use felid_model::{Resource, ResourceKey};

use crate::core::content::{Ambiguity, Body, Digest, Doc, SourceContent, SourceId};
use crate::core::problem::{InForce, Problem, Severity};
use crate::core::state::{Entry, LogEntry, Owner, Recall, Versions};

impl Versions {
    /// Decides what is in force for one resource.
    pub(super) fn decide(
        &mut self,
        key: &ResourceKey,
        recall: Recall<'_>,
        files: &mut BTreeSet<SourceId>,
        records: &mut Vec<LogEntry>,
    ) {
        let old = self.take_entry(key);
        let before = old.as_ref().map(|entry| (Arc::clone(&entry.path), entry.digest));
        let claims = self.claims.get(key).cloned().unwrap_or_default();
        let mut hidden = false;
        let entry = old.and_then(|mut entry| {
            files.insert(Arc::clone(&entry.path));
            hidden = !claims.contains(&entry.path)
                && self
                    .contents
                    .get(&entry.path)
                    .is_some_and(|view| view.may_contain(key.kind));
            if entry.resource.is_none() && (hidden || !self.is_good(&entry.path, key)) {
                entry.resource = recall(key);
                entry.good = !matches!(entry.resource, None | Some(Resource::BadPolicy(_)));
                entry.resource.as_ref()?;
            }
            Some(entry)
        });
        hidden &= entry.is_some();

        let holder = self.holder(key, entry.as_ref(), &claims, hidden);
        let after = match &holder {
            Some(holder) => self.version(key, holder, &claims, entry.filter(|entry| entry.good || hidden)),
            None => entry.filter(|_| hidden),
        };

        self.problems_of_key(key, holder.as_ref(), after.as_ref());
        self.journal(key, before, after.as_ref(), records);
        if let Some(entry) = after {
            files.insert(Arc::clone(&entry.path));
            self.entries_of
                .entry(Arc::clone(&entry.path))
                .or_default()
                .insert(key.clone());
            self.entries.insert(key.clone(), entry);
        }
    }

    /// The version of a resource that is in force when the document in `holder` counts and `entry`
    /// was in force before.
    fn version(
        &self,
        key: &ResourceKey,
        holder: &SourceId,
        claims: &BTreeSet<SourceId>,
        entry: Option<Entry>,
    ) -> Option<Entry> {
        let path = Arc::clone(holder);
        let Some(doc) = self.doc(holder, key) else { return entry };
        match (&doc.body, entry) {
            (Body::Good(resource), _) => Some(Entry {
                path,
                digest: doc.digest,
                good: true,
                resource: Some(resource.clone()),
            }),
            (_, Some(entry)) if entry.good => Some(Entry { path, ..entry }),
            _ => self.bad_policy(key, claims).map(|resource| Entry {
                path,
                digest: doc.digest,
                good: false,
                resource: Some(resource),
            }),
        }
    }

    fn take_entry(&mut self, key: &ResourceKey) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        if let Some(keys) = self.entries_of.get_mut(&entry.path) {
            keys.remove(key);
            if keys.is_empty() {
                self.entries_of.remove(&entry.path);
            }
        }
        Some(entry)
    }

    fn is_good(&self, path: &str, key: &ResourceKey) -> bool {
        matches!(
            self.doc(path, key),
            Some(Doc {
                body: Body::Good(_),
                ..
            })
        )
    }

    /// The file whose document counts: the one that the good version in force is from as long as it
    /// claims the resource or may hide it, else the first with a good document, else the first.
    fn holder(
        &self,
        key: &ResourceKey,
        entry: Option<&Entry>,
        claims: &BTreeSet<SourceId>,
        hidden: bool,
    ) -> Option<SourceId> {
        if let Some(entry) = entry.filter(|entry| entry.good && (hidden || claims.contains(&entry.path))) {
            return Some(Arc::clone(&entry.path));
        }
        let good = claims.iter().find(|path| self.is_good(path, key));
        let place = entry.filter(|_| hidden).map(|entry| &entry.path);
        good.or(place).or(claims.first()).cloned()
    }

    /// A resource that closes what any of the bad documents of a policy may select.
    fn bad_policy(&self, key: &ResourceKey, claims: &BTreeSet<SourceId>) -> Option<Resource> {
        let mut policies = claims.iter().filter_map(|path| match &self.doc(path, key)?.body {
            Body::Bad { policy, .. } => policy.as_ref(),
            _ => None,
        });
        let mut merged = Arc::clone(policies.next()?);
        for other in policies {
            if (&other.selector, &other.namespace_selector) != (&merged.selector, &merged.namespace_selector) {
                let wide = Arc::make_mut(&mut merged);
                wide.selector = None;
                wide.namespace_selector = None;
            }
        }
        Some(Resource::BadPolicy(merged))
    }

    fn journal(
        &mut self,
        key: &ResourceKey,
        before: Option<(SourceId, Digest)>,
        after: Option<&Entry>,
        records: &mut Vec<LogEntry>,
    ) {
        let text = after.and_then(|entry| self.text(key, entry));
        match (before, after) {
            (None, None) => {}
            (Some(_), None) => records.push(LogEntry::Drop { key: key.clone() }),
            (Some((path, digest)), Some(entry)) if digest == entry.digest => {
                if path != entry.path {
                    records.push(LogEntry::Move {
                        key: key.clone(),
                        path: Arc::clone(&entry.path),
                    });
                }
            }
            (_, Some(entry)) => {
                // Absent only if an earlier record holds it: texts are taken when they are written.
                if let Some(text) = text {
                    let (path, digest, good) = (Arc::clone(&entry.path), entry.digest, entry.good);
                    records.push(LogEntry::Put {
                        key: key.clone(),
                        path,
                        digest,
                        good,
                        text,
                    });
                }
            }
        }
    }

    /// The text of the document that an entry is made of. A good one is taken: from now on the
    /// journal has it. A bad one may lose its place in the journal to another file's document and
    /// get it back.
    fn text(&mut self, key: &ResourceKey, entry: &Entry) -> Option<Arc<str>> {
        let SourceContent::Parsed(docs) = self.contents.get_mut(&entry.path)? else {
            return None;
        };
        docs.text(key, entry.digest, entry.good)
    }

    fn problems_of_key(&mut self, key: &ResourceKey, holder: Option<&SourceId>, entry: Option<&Entry>) {
        let mut problems = Vec::new();
        let in_force = match entry {
            Some(entry) if entry.good => InForce::LastGood,
            Some(_) => InForce::Closed,
            None => InForce::Nothing,
        };
        let winner = holder.and_then(|path| Some((path, self.doc(path, key)?)));
        let place: SourceId = match (winner, holder) {
            (Some((path, doc)), _) => Arc::from(doc.position.origin(path).to_string()),
            (None, Some(path)) => Arc::clone(path),
            (None, None) => Arc::from(""),
        };
        if let (None, Some(path), Some(SourceContent::Parsed(_))) =
            (winner, holder, holder.and_then(|path| self.contents.get(path)))
        {
            let reason = "no document of this file is recognised as it, but the file has an unreadable document or is still being written";
            problems.push(Problem::error(reason, in_force.clone()).at(path, None).of(key));
        }
        for path in self.claims.get(key).into_iter().flatten() {
            for doc in self.contents.get(path).into_iter().flat_map(|view| view.docs_of(key)) {
                let wins = winner.is_some_and(|(_, winner)| std::ptr::eq(winner, doc));
                if !wins {
                    let reason = format!("the same resource is in {place}, which counts");
                    let then = InForce::Elsewhere(Arc::clone(&place));
                    problems.push(Problem::error(reason, then).from(doc.position.origin(path)).of(key));
                }
                let bad = !matches!(doc.body, Body::Good(_));
                for finding in &doc.findings {
                    let then = match (wins, bad) {
                        (true, false) => InForce::Document,
                        (true, true) => in_force.clone(),
                        (false, _) => InForce::Elsewhere(Arc::clone(&place)),
                    };
                    problems.push(finding.problem(path, Some(key.to_string()), then));
                }
            }
        }
        if key.kind.is_staged() {
            problems.iter_mut().for_each(Problem::only_warn);
        }
        self.set_problems(Owner::Key(key.clone()), problems);
    }

    /// Decides about the documents of a file that name no resource.
    pub(super) fn decide_source(&mut self, path: &SourceId, keys: &mut BTreeSet<ResourceKey>) {
        let mut problems = Vec::new();
        let mut nameless = BTreeMap::new();
        match self.contents.get(path) {
            Some(SourceContent::Unreadable(reason)) => {
                problems.push(Problem::error(reason.clone(), InForce::Unchanged).at(path, None));
            }
            Some(SourceContent::Parsed(docs)) => {
                let mut hidden = self.hidden_entries(path);
                for (index, doc) in docs.all().iter().enumerate() {
                    let Body::Unreadable { policy } = &doc.body else {
                        continue;
                    };
                    let last_good = take_hidden(&mut hidden, doc, policy.is_some());
                    let in_force = match (&last_good, policy) {
                        (Some(_), _) => InForce::LastGood,
                        (None, Some(policy)) => {
                            let mut policy = policy.as_ref().clone();
                            policy.key.name = Arc::from(format!("unreadable:{path}#{}", index + 1));
                            nameless.insert(policy.key.clone(), Resource::BadPolicy(Arc::new(policy)));
                            InForce::Closed
                        }
                        (None, None) => InForce::Nothing,
                    };
                    let resource = last_good.as_ref().map(ToString::to_string);
                    let staged = matches!(doc.ambiguity, Some(Ambiguity::Kind(kind)) if kind.is_staged());
                    problems.extend(doc.findings.iter().map(|finding| {
                        let mut problem = finding.problem(path, resource.clone(), in_force.clone());
                        if staged {
                            problem.only_warn();
                        } else if last_good.is_some() {
                            // No record, where a record was.
                            problem.severity = Severity::Error;
                        }
                        problem
                    }));
                }
            }
            Some(SourceContent::Unreachable) | None => {}
        }
        self.set_problems(Owner::File(Arc::clone(path)), problems);

        for key in self.nameless_of.remove(path).unwrap_or_default() {
            self.nameless.remove(&key);
            keys.insert(key);
        }
        if !nameless.is_empty() {
            keys.extend(nameless.keys().cloned());
            self.nameless_of
                .insert(Arc::clone(path), nameless.keys().cloned().collect());
            self.nameless.extend(nameless);
        }
    }

    /// Good versions in force that are from this file, though no document of it names them.
    fn hidden_entries(&self, path: &SourceId) -> BTreeSet<ResourceKey> {
        let Some(keys) = self.entries_of.get(path) else {
            return BTreeSet::new();
        };
        let named = |key: &ResourceKey| self.claims.get(key).is_some_and(|files| files.contains(path));
        keys.iter()
            .filter(|key| !named(key) && self.entries.get(*key).is_some_and(|e| e.good))
            .cloned()
            .collect()
    }
}

/// Takes the first entry that an unreadable document may have been.
fn take_hidden(hidden: &mut BTreeSet<ResourceKey>, doc: &Doc, is_policy: bool) -> Option<ResourceKey> {
    let fits = |key: &&ResourceKey| {
        doc.ambiguity.is_some_and(|ambiguity| ambiguity.may_be(key.kind)) && (!is_policy || key.kind.is_policy())
    };
    let found = hidden.iter().find(fits).cloned()?;
    hidden.remove(&found);
    Some(found)
}
