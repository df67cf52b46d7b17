"""Short texts of the encodings before Unicode: too few letters for statistics."""

import io

import pytest

from producers.sources._encoding import detect

WESTERN = """
Das Münchner Oktoberfest eröffnet am Samstag mit großem Umzug.
Österreich wählt im Frühling ein neues Parlament.
Die Schule in Lübeck schließt
Ein Löwe ist aus dem Zoo in Köln entlaufen
Die Straße war über Nacht gesperrt.
Für 5 € gibt es ein „großes“ Stück Käse.
ÄRZTE STREIKEN IN MÜNCHEN
Übermorgen fällt der Zug aus.
Äpfel und Öl
Es kostet 20 € – für alle.
Der Präsident von São Paulo grüßte Köln, Düsseldorf, Nürnberg und Zürich.
L'été sera très chaud à Paris.
Le préfet a démissionné après l’élection.
Où est passé le garçon ?
« Ça suffit », a déclaré le maire.
Une œuvre d'art volée a été retrouvée à Nîmes.
Noël approche et les enfants sont prêts.
Le naïf croyait à la fête.
École fermée
¿Dónde está el niño?
El año pasado llovió más en España.
¡Qué día tan bonito!
La selección ganó el partido en Bogotá.
Mañana habrá elecciones.
Um pingüino escapó del acuario.
A eleição será amanhã em São Paulo.
Não há informações sobre o avião.
O coração da cidade está à venda.
Três irmãos abriram uma padaria em Évora.
As crianças vão à escola às oito.
Perché la città è così bella?
Il caffè costerà di più da lunedì.
Però l'università resterà aperta.
È arrivata la libertà.
Il sindaco andrà a Forlì.
Åsa köpte två biljetter
Regeringen föreslår höjda skatter på sprit.
Älgen gick över vägen i Örebro.
En båt sjönk utanför Göteborg
Åland får ett nytt färjeläge.
Københavns lufthavn åbner en ny terminal.
Børnene gik på æblejagt.
Regeringen vil hæve skatten på øl.
Ærø får en ny færge til næste år.
Været blir bedre på søndag.
Tromsø får ny kirke.
Kongen åpnet museet i Ålesund.
Hun kjøpte blåbær på torget.
Hyvää huomenta, Jyväskylä!
Äiti osti leipää ja jäätelöä.
Hyvää yötä.
Töölön kirjasto on suljettu.
Tšekki voitti jääkiekon.
Pääministeri eroaa tänään.
De coördinatie van het café viel tegen.
België kiest een nieuwe regering.
Zij hebben één kind en twee ideeën.
Een reünie in Groningen
Þýðing bókarinnar kom út í gær.
Forsætisráðherra sagði af sér.
Það er kalt á Íslandi.
Ég ætla að fara heim.
Alþingi samþykkti lögin.
Una plaça de Barcelona és plena de gent; col·legi tancat.
A café in Zürich costs £5.
The naïve fiancé read his résumé.
It’s a “test” – with dashes…
Temperature: 20 °C ± 2 °C
Superficie: 45 m², n° 5, 1º de mayo
Dublin: Seán Ó Ríordáin
Väinö käytti 5 € kahviin.
GRÖSSE UND STRAßE
""".strip().splitlines()


def detected(content: bytes) -> str:
    return content.decode(detect(io.BytesIO(content)))


@pytest.mark.parametrize("text", WESTERN)
def test_a_short_western_text_is_cp1252(text: str) -> None:
    assert detected(text.encode("cp1252")) == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Zażółć gęślą jaźń.", "cp1250"),
        ("Zażółć gęślą jaźń.", "iso8859_2"),
        ("Příliš žluťoučký kůň úpěl ďábelské ódy.", "cp1250"),
        ("Příliš žluťoučký kůň úpěl ďábelské ódy.", "iso8859_2"),
        ("Президент приехал в Москву.", "cp1251"),
        ("Нет, мы идем домой.", "cp1251"),
        ("Η Αθήνα είναι όμορφη.", "cp1253"),
        ("Καλημέρα", "iso8859_7"),
        ("مرحبا بالعالم", "cp1256"),
        ("今天天氣很好", "big5"),
        ("カタカナ", "cp932"),
        ("Le garçon fatigué a mangé une crêpe. " * 9, "mac_roman"),
        ("Où est passé le maire ? “Je l’ai vu à l’hôtel”, a dit Zoë. " * 9, "mac_roman"),
    ],
)
def test_what_is_not_western_is_still_told(text: str, encoding: str) -> None:
    assert detected(text.encode(encoding)) == text
