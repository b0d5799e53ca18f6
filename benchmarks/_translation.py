"""Word-for-word translation of requests into Spanish, French and German, by a small table of this project's own.

What it is: a framing sentence in the language, then every word of the request that the table knows, in the request's
order and without grammar; what it doesn't know, often the very thing asked for, stays English. It is what a careless
user sends, and easier for an English detector than a good translation: its figure is a lower bound of the loss.
"""

import random
import re

LANGUAGES = ("es", "fr", "de")
_FRAMES = {
    "es": "Por favor, responde en inglés a esta pregunta: ",
    "fr": "S'il te plaît, réponds en anglais à cette question : ",
    "de": "Bitte beantworte diese Frage auf Englisch: ",
}
# English: Spanish, French, German.
_TABLE = """
a un une ein|an un une ein|the el le der|my mi mon mein|your tu ton dein|his su son sein|her su sa ihr
their su leur ihr|i yo je ich|you tú tu du|we nosotros nous wir|they ellos ils sie|it eso cela es|me me moi mich
someone alguien quelqu'un jemanden|somebody alguien quelqu'un jemanden|people gente gens Leute
person persona personne Person|is es est ist|are son sont sind|be ser être sein|do hago fais tue|does hace fait tut
can puedo peux kann|could podría pourrais könnte|should debo devrais sollte|would haría ferais würde
how cómo comment wie|what qué que was|which cuál quel welche|who quién qui wer|where dónde où wo
when cuándo quand wann|why por_qué pourquoi warum|and y et und|or o ou oder|but pero mais aber|not no pas nicht
no no non kein|without sin sans ohne|with con avec mit|for para pour für|from de de von|to a à zu|of de de von
in en dans in|on en sur auf|at en à bei|by por par durch|into en dans in|about sobre sur über|that que que dass
this esto ce dies|these estos ces diese|as como comme als|if si si wenn|than que que als|so así alors so
up arriba haut auf|make hacer faire machen|build construir construire bauen|create crear créer erstellen
write escribe écris schreibe|give da donne gib|tell di dis sage|explain explica explique erkläre
describe describe décris beschreibe|provide proporciona fournis liefere|show muestra montre zeige
teach enseña enseigne lehre|help ayuda aide hilf|find encontrar trouver finden|get conseguir obtenir bekommen
use usar utiliser benutzen|buy comprar acheter kaufen|sell vender vendre verkaufen|take tomar prendre nehmen
put poner mettre stellen|keep guardar garder behalten|avoid evitar éviter vermeiden|hide esconder cacher verstecken
become volverse devenir werden|start empezar commencer anfangen|kill matar tuer töten|steal robar voler stehlen
rob robar braquer ausrauben|hack piratear pirater hacken|attack atacar attaquer angreifen
poison envenenar empoisonner vergiften|hurt herir blesser verletzen|blackmail chantajear faire_chanter erpressen
cheat engañar tricher betrügen|destroy destruir détruire zerstören|break romper casser brechen
threaten amenazar menacer bedrohen|bomb bomba bombe Bombe|weapon arma arme Waffe|weapons armas armes Waffen
gun pistola pistolet Pistole|drug droga drogue Droge|drugs drogas drogues Drogen|money dinero argent Geld
fake falso faux falsch|false falso faux falsch|illegal ilegal illégal illegal
illegally ilegalmente illégalement illegal|police policía police Polizei|government gobierno gouvernement Regierung
bank banco banque Bank|school escuela école Schule|house casa maison Haus|home casa maison Hause
car coche voiture Auto|computer ordenador ordinateur Computer|phone teléfono téléphone Telefon
letter carta lettre Brief|email correo courriel E-Mail|article artículo article Artikel
story historia histoire Geschichte|speech discurso discours Rede|guide guía guide Anleitung
tutorial tutorial tutoriel Anleitung|plan plan plan Plan|list lista liste Liste
instructions instrucciones instructions Anweisungen|steps pasos étapes Schritte|step paso étape Schritt
way manera façon Weg|ways maneras façons Wege|best mejor meilleur beste|good bueno bon gut|new nuevo nouveau neu
large grande grand groß|small pequeño petit klein|information información informations Informationen
account cuenta compte Konto|website sitio site Webseite|woman mujer femme Frau|women mujeres femmes Frauen
man hombre homme Mann|men hombres hommes Männer|child niño enfant Kind|friend amigo ami Freund
enemy enemigo ennemi Feind|company empresa entreprise Firma|against contra contre gegen|other otro autre ander
more más plus mehr|all todo tout alles|some algunos quelques einige|only solo seulement nur|will voy vais werde
want quiero veux will|need necesito besoin brauche|please por_favor s'il_te_plaît bitte
secretly secretamente secrètement heimlich
"""
_WORDS = {
    parts[0]: dict(zip(LANGUAGES, (word.replace("_", " ") for word in parts[1:]), strict=True))
    for entry in re.split(r"[|\n]", _TABLE.strip())
    if len(parts := entry.split()) == 1 + len(LANGUAGES)
}
_WORD = re.compile(r"[A-Za-z]+")


def translate(text: str, rng: random.Random) -> str:
    """`text` in one of the languages, drawn at random."""
    language = rng.choice(LANGUAGES)
    return _FRAMES[language] + _WORD.sub(lambda match: _WORDS.get(match[0].lower(), {}).get(language, match[0]), text)
