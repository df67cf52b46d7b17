"""The newsroom: documents in, published articles out.

::

    documents ─┬─ classify ─┐
               ├─ annotate ─┼─ outline ─ draft ─┬─ headline ─┐
               └────────────┘             ↑     ├─ summary ──┼─ review ─ article
                                          │     ├─ social ───┤     │
                                          │     └────────────┘     │
                                          └──── at most once ──────┘
"""

from typing import Annotated, Literal

from schemas.record import Text, record
from schemas.records import (
    Annotation,
    Article,
    Classification,
    Document,
    Draft,
    Entity,
    Headline,
    Outline,
    Review,
    Revision,
    SocialPost,
    Summary,
)
from schemas.topics import (
    annotations,
    articles,
    classifications,
    documents,
    drafts,
    headlines,
    outlines,
    reviews,
    revisions,
    social_posts,
    summaries,
)
from streams import Llm, Pipeline, join
from streams.entities import find_entities
from streams.prompts import excerpt

MAX_DRAFTS = 2
"""A review may send an article back once."""

EXCERPT_BYTES = 600
"""How much of a document the model reads: what a small model can take in."""

newsroom = Pipeline("newsroom")


@record
class Points:
    """What the model writes into an outline."""

    points: Annotated[list[Annotated[str, Text(max=60)]], Text(max=2)]


@record
class Body:
    """What the model writes into a draft."""

    text: Annotated[str, Text(max=240)]


@record
class Verdict:
    """What the model says of a draft."""

    verdict: Literal["publish", "revise"]
    note: Annotated[str, Text(max=40)]


def whole_sentences(text: str) -> str:
    """The text without a last sentence that its bound cut off."""
    end = max(text.rfind(mark) for mark in ".!?。！？؟")
    return text[: end + 1] if end > len(text) // 3 else text


@newsroom.stage(reads=documents, writes=classifications, prompt="classify@1")
async def classify(document: Document, llm: Llm) -> Classification:
    return await llm(
        Classification, title=document.title, text=excerpt(document.text, EXCERPT_BYTES)
    )


@newsroom.stage(reads=documents, writes=annotations)
async def annotate(document: Document) -> Annotation:
    found = await find_entities(document.text)
    return Annotation([Entity(text, label, count) for text, label, count in found])


@newsroom.stage(
    reads=join(documents, classifications, annotations, on="origin"),
    writes=outlines,
    prompt="outline@1",
)
async def outline(
    document: Document, classification: Classification, annotation: Annotation, llm: Llm
) -> Outline:
    text = excerpt(document.text, EXCERPT_BYTES)
    plan = await llm(Points, title=document.title, text=text)
    return Outline(
        document_id=document.id,
        source=document.source,
        title=document.title,
        excerpt=text,
        topic=classification.topic,
        language=classification.language,
        quality=classification.quality,
        entities=annotation.entities,
        points=plan.points,
    )


@newsroom.stage(reads=[outlines, revisions], writes=drafts, prompt="draft@1")
async def draft(order: Outline | Revision, llm: Llm) -> Draft:
    plan = order.outline if isinstance(order, Revision) else order
    note = order.note if isinstance(order, Revision) else ""
    attempt = order.attempt if isinstance(order, Revision) else 1
    body = await llm(Body, title=plan.title, text=plan.excerpt, points=plan.points, note=note)
    return Draft(plan, whole_sentences(body.text), attempt)


@newsroom.stage(reads=drafts, writes=headlines, prompt="headline@1")
async def headline(draft: Draft, llm: Llm) -> Headline:
    return await llm(Headline, body=draft.body)


@newsroom.stage(reads=drafts, writes=summaries, prompt="summary@1")
async def summary(draft: Draft, llm: Llm) -> Summary:
    written = await llm(Summary, body=draft.body)
    return Summary(whole_sentences(written.text))


@newsroom.stage(reads=drafts, writes=social_posts, prompt="social@1")
async def social(draft: Draft, llm: Llm) -> SocialPost:
    written = await llm(SocialPost, body=draft.body)
    return SocialPost(whole_sentences(written.text))


@newsroom.stage(
    reads=join(drafts, headlines, summaries, social_posts, on="origin"),
    writes=[revisions, reviews],
    prompt="review@1",
)
async def review(
    draft: Draft, headline: Headline, summary: Summary, post: SocialPost, llm: Llm
) -> Revision | Review:
    opinion = await llm(Verdict, headline=headline.text, body=draft.body)
    if opinion.verdict == "revise" and draft.attempt < MAX_DRAFTS:
        return Revision(draft.outline, opinion.note, draft.attempt + 1)
    return Review(draft, headline, summary, post, opinion.note)


@newsroom.stage(reads=reviews, writes=articles)
async def article(review: Review) -> Article:
    draft, plan = review.draft, review.draft.outline
    return Article(
        id=plan.document_id,
        source=plan.source,
        title=review.headline.text.strip() or plan.title,
        summary=review.summary.text,
        social_post=review.social_post.text,
        body=draft.body,
        topic=plan.topic,
        language=plan.language,
        quality=plan.quality,
        entities=plan.entities,
        attempts=draft.attempt,
    )
